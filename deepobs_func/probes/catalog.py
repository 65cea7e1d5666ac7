"""What can be asked of the probes by name, above all the quantities that can be tracked. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from deepobs_func.errors import ConfigError, unknown
from deepobs_func.registry import Registry

if TYPE_CHECKING:
    from deepobs_func.probes.outer import Statistic

HVPMode = Literal["reverse-over-forward", "reverse-over-reverse", "forward-over-reverse"]
"""A way to a Hessian-vector product; see `probes.hvp`."""

MODES: tuple[HVPMode, ...] = get_args(HVPMode)

Way = Literal[HVPMode, "jvp", "vjp of vjp", "vmap"]
"""A mode of `hvp`; `J v` in forward mode, or by a backward pass through the backward pass; many at once."""


@dataclass(frozen=True)
class Quantity:
    """A quantity that can be tracked in a run.

    Its definition does not depend on what else is tracked. `theta_t` and `theta_(t+1)` are the parameters around the
    step, and everything is of the batch of the step. L is the mean loss of the batch in the training phase, without the
    penalty; g is its gradient and H its Hessian, both at `theta_t` and, where batch norm couples the examples, through
    the statistics of the batch. `l_n`, `g_n` and their mean `g_bar` are losses and gradients of single examples: where
    batch norm couples the examples, in the mode that the run names (`--track-bn`, as in `probes.statistics`). Without
    such a coupling, and in the mode `coupled`, g_bar is g.

    Attributes:
        name: on the command line and in the record.
        summary: one line, with the formula.
        needs: the statistics of per-example gradients that it is made of (fields of `probes.Statistics`).
        least: examples in a batch, at least.
        plain_sgd: whether it is defined for SGD without momentum alone.
        per_example: whether it looks at per-example gradients, so that batch norm asks for a choice.
        ggn: whether it needs a problem with a GGN.
        most_parameters: the largest net that it is for; None for any.
        compute: the import path of `TrackedStep -> tensor`, for a quantity of another package; "" for those of this
            one, which `probes.tracked` computes.
    """

    name: str
    summary: str
    needs: tuple[Statistic, ...] = ()
    least: int = 1
    plain_sgd: bool = False
    per_example: bool = True
    ggn: bool = False
    most_parameters: int | None = None
    compute: str = ""


QUANTITIES = Registry(
    "quantity to track:",
    Quantity,
    (
        Quantity("grad_norm", "|g|, g the gradient of the mean loss", per_example=False),
        Quantity("distance", "|theta_(t+1) - theta_0|, from where the run started", per_example=False),
        Quantity("position", "theta_t, of at most 100 parameters", per_example=False, most_parameters=100),
        Quantity("update_size", "|theta_(t+1) - theta_t|", per_example=False),
        Quantity("alpha", "-1 no step, 0 the minimum of a local quadratic of mean l_n, 1 its other side", least=2),
        Quantity("norm_test", "sqrt(V / (B |g_bar|^2)), V the variance of g_n", ("gram",), least=2),
        Quantity("inner_test", "sqrt(V / (B |g_bar|^4)), V the variance of g_n . g_bar", ("gram",), least=2),
        Quantity("ortho_test", "sqrt(V / (B |g_bar|^2)), V that of g_n orthogonal to g_bar", ("gram",), least=2),
        Quantity("noise_scale", "tr S / |g_bar|^2, S the covariance of g_n", ("gram",)),
        Quantity("cabs", "lr tr S / mean l_n, the batch size that CABS advises", ("gram",), plain_sgd=True),
        Quantity("early_stopping", "1 - B mean_j g_bar_j^2 / (s_j^2 + 1e-5), s^2 of g_n", ("grad", "scatter"), least=2),
        Quantity("mean_gsnr", "mean_j g_bar_j^2 / (var_j + 1e-5), var of g_n", ("grad", "scatter")),
        Quantity("grad_hist_1d", "100 bins of g_nj in [-2, 2]"),
        Quantity("grad_hist_2d", "40 x 50 bins of g_nj in [-1, 1] and theta_j in [-2, 2]"),
        Quantity("hess_max_ev", "the largest eigenvalue of H, Lanczos", per_example=False),
        Quantity("hess_trace", "the trace of H, Hutchinson with 10 vectors", per_example=False),
        Quantity("tic_trace", "mean_n |g_n|^2 / (tr H + 1e-7), tr H that of hess_trace", ("gram",)),
        Quantity(
            "tic_diag",
            "sum_j mean_n g_nj^2 / (h_j + 1e-7), h the diagonal of the GGN of L",
            ("grad", "scatter"),
            ggn=True,
        ),
    ),
    group="deepobs_func.quantities",
    listing="deepobs list",
)

PRESETS: dict[str, tuple[str, ...]] = {
    "economy": (
        *("grad_norm", "distance", "update_size", "alpha", "norm_test", "inner_test", "ortho_test", "noise_scale"),
        *("cabs", "early_stopping", "mean_gsnr"),
    ),
    "full": tuple(QUANTITIES.own),
}
"""Several quantities under one name; what is not defined for a run's optimizer or problem is left out of a preset."""


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The quantities that a user names, presets spelled out, each once.

    Raises:
        ConfigError: there is no such quantity.
    """
    found: dict[str, None] = {}
    for name in names:
        if name not in PRESETS and name not in QUANTITIES:
            raise ConfigError(unknown("quantity to track:", name, [*QUANTITIES, *PRESETS]))
        found |= dict.fromkeys(PRESETS.get(name, (name,)))
    return tuple(found)
