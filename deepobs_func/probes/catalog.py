"""What can be asked of the probes by name, above all the quantities that can be tracked. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

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
        by_layer: whether it can be had of each layer, as `NAME/layer`.
        of_update: whether it looks at `theta_(t+1)`, so that the step has to be made.
        most_outputs: of all examples of a batch together; None for any.
        averages: whether a mean of its values over batches, entry by entry, means anything.
        ratio_of: the two quantities, unbiased estimates, that it is the ratio of: over several batches, of their means.
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
    most_outputs: int | None = None
    compute: str = ""
    by_layer: bool = False
    of_update: bool = False
    averages: bool = True
    ratio_of: tuple[()] | tuple[str, str] = ()


_OF_UPDATE: Mapping[str, Any] = {"per_example": False, "by_layer": True, "of_update": True}
_OF_GRAM: Mapping[str, Any] = {"needs": ("gram",), "by_layer": True}
_OF_SCATTER: Mapping[str, Any] = {"needs": ("grad", "scatter"), "by_layer": True}

QUANTITIES = Registry(
    "quantity to track:",
    Quantity,
    (
        Quantity("grad_norm", "|g|, g the gradient of the mean loss", per_example=False, by_layer=True),
        Quantity("distance", "|theta_(t+1) - theta_0|, from where the run started", **_OF_UPDATE),
        Quantity("position", "theta_t, of at most 100 parameters", per_example=False, most_parameters=100),
        Quantity("update_size", "|theta_(t+1) - theta_t|", **_OF_UPDATE),
        Quantity("update_ratio", "|theta_(t+1) - theta_t| / |theta_t|", **_OF_UPDATE),
        Quantity(
            "alpha",
            "-1 no step, 0 the minimum of a local quadratic of mean l_n, 1 its other side",
            least=2,
            of_update=True,
        ),
        Quantity("norm_test", "sqrt(V / (B |g_bar|^2)), V the variance of g_n", **_OF_GRAM, least=2),
        Quantity("inner_test", "sqrt(V / (B |g_bar|^4)), V the variance of g_n . g_bar", **_OF_GRAM, least=2),
        Quantity("ortho_test", "sqrt(V / (B |g_bar|^2)), V that of g_n orthogonal to g_bar", **_OF_GRAM, least=2),
        Quantity("noise_scale", "tr S / |g_bar|^2, S the covariance of g_n", **_OF_GRAM),
        Quantity("cabs", "lr tr S / mean l_n, the batch size that CABS advises", ("gram",), plain_sgd=True),
        Quantity("early_stopping", "1 - B mean_j g_bar_j^2 / (s_j^2 + 1e-5), s^2 of g_n", **_OF_SCATTER, least=2),
        Quantity("mean_gsnr", "mean_j g_bar_j^2 / (var_j + 1e-5), var of g_n", **_OF_SCATTER),
        Quantity("grad_diversity", "mean |g_n|^2 / (B |g_bar|^2), the diversity of the gradients", **_OF_GRAM),
        Quantity("grad_cov_trace", "B / (B - 1) tr S, an unbiased tr Cov of g_n", **_OF_GRAM, least=2),
        Quantity("grad_sq_norm", "|g_bar|^2 - grad_cov_trace / B, an unbiased |E g_n|^2", **_OF_GRAM, least=2),
        Quantity(
            "critical_batch_size",
            "grad_cov_trace / grad_sq_norm, the simple noise scale; infinite where the latter is not positive",
            **_OF_GRAM,
            least=2,
            ratio_of=("grad_cov_trace", "grad_sq_norm"),
        ),
        Quantity("grad_hist_1d", "100 bins of g_nj in [-2, 2]"),
        Quantity("grad_hist_2d", "40 x 50 bins of g_nj in [-1, 1] and theta_j in [-2, 2]"),
        Quantity("hess_max_ev", "the largest eigenvalue of H, Lanczos", per_example=False, by_layer=True),
        Quantity("hess_trace", "the trace of H, Hutchinson with 10 vectors", per_example=False, by_layer=True),
        Quantity("tic_trace", "mean_n |g_n|^2 / (tr H + 1e-7), tr H that of hess_trace", ("gram",)),
        Quantity(
            "tic_diag",
            "sum_j mean_n g_nj^2 / (h_j + 1e-7), h the diagonal of the GGN of L",
            ("grad", "scatter"),
            ggn=True,
        ),
        Quantity(
            "hess_spectrum",
            "eigenvalues and density of H at 200 points, Lanczos quadrature with 3 vectors",
            per_example=False,
            averages=False,
        ),
        Quantity("grad_cov_spectrum", "the 20 largest eigenvalues of S, 0 beyond the B-th", ("gram",)),
        Quantity(
            "ntk_spectrum",
            "the 20 largest eigenvalues of J J^T / B, J the Jacobian of all outputs of the batch; at most 4096 outputs",
            most_outputs=4096,
        ),
    ),
    group="deepobs_func.quantities",
    listing="deepobs list",
)

SPECTRA = ("hess_spectrum", "grad_cov_spectrum", "ntk_spectrum")
PRESETS: dict[str, tuple[str, ...]] = {
    "economy": (
        *("grad_norm", "distance", "update_size", "alpha", "norm_test", "inner_test", "ortho_test", "noise_scale"),
        *("cabs", "early_stopping", "mean_gsnr"),
    ),
    "full": tuple(name for name in QUANTITIES.own if name not in SPECTRA),
    "spectra": SPECTRA,
    "layers": ("grad_norm/layer", "update_ratio/layer", "hess_max_ev/layer", "critical_batch_size/layer"),
}
"""Several quantities under one name; what is not defined for a run's optimizer or problem is left out of a preset."""
ALIASES: Mapping[str, str] = {"trace": "hess_trace", "spectrum": "hess_spectrum", "gsnr": "mean_gsnr"}
"""Short names on the command line."""
LAYER = "/layer"
"""The end of the name of a quantity of each layer."""


def row_of(name: str) -> Quantity:
    """The row of a quantity, or of one of each layer.

    Args:
        name: of `QUANTITIES`, or `NAME/layer`.

    Raises:
        ConfigError: there is no such quantity (the message has the nearest), or none of a single layer.

    >>> row_of("grad_norm/layer").name, row_of("noise_scale/layer").needs
    ('grad_norm/layer', ())
    """
    base, is_of_layers = name.removesuffix(LAYER), name.endswith(LAYER)
    base = ALIASES.get(base, base)
    if base not in QUANTITIES:
        near = [*QUANTITIES, *PRESETS, *(each + LAYER for each, row in QUANTITIES.items() if row.by_layer)]
        raise ConfigError(unknown("quantity to track:", name, near))
    row = QUANTITIES[base]
    if not is_of_layers:
        return row
    if not row.by_layer:
        those = ", ".join(each for each, other in QUANTITIES.items() if other.by_layer)
        raise ConfigError(f"Quantity {name!r}: {base} is of the whole net alone. Those of each layer are {those}.")
    # Gram matrices of layers are computed apart from that of all.
    return replace(row, name=base + LAYER, needs=tuple(need for need in row.needs if need != "gram"))


def chosen(names: Iterable[str]) -> tuple[str, ...]:
    """The quantities that a user names, presets and short names spelled out, each once.

    Raises:
        ConfigError: there is no such quantity.

    >>> chosen(["trace", "grad_norm/layer", "trace"])
    ('hess_trace', 'grad_norm/layer')
    """
    found: dict[str, None] = {}
    for name in names:
        found |= dict.fromkeys(PRESETS[name] if name in PRESETS else (row_of(name).name,))
    return tuple(found)
