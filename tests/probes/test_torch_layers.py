"""Every probe through torch.nn's layers: right, or refused where torch has no right derivative.

`python -m tests.probes.test_torch_layers` writes the outcome to docs/layers.md.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, jvp, vjp

from deepobs_func import probes, problems, random
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.probes import contract
from deepobs_func.probes.catalog import MODES
from deepobs_func.probes.differences import nodes
from deepobs_func.probes.known import RIGHT
from deepobs_func.problems import measures
from deepobs_func.problems.conversion.table import TABLE
from deepobs_func.problems.oracle import Oracle as ObjectiveOracle
from deepobs_func.problems.oracle import make_value_and_grad
from deepobs_func.problems.problem import Problem
from tests.probes.layers import F64, LAYERS, Instance, Oracle, Tree, instance, leaves

PAGE = Path(__file__).parents[2] / "docs" / "layers.md"
KEY = random.key(3)
COLUMNS = ("per-example gradients", *MODES, "ggnvp", "fisher_vp", "empirical fisher_vp", "per_example_dots", "trace")
TOLERANCE = 1e-5  # of differences of the gradient; rounding would allow for 1e-9, the step's own error does not


def flat(tree: Tree) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in tree.values()])


def same(one: Tensor, other: Tensor) -> Tensor:
    """One of two ways, if they agree."""
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    return one


class Case:
    """A problem of one layer, its point, two directions, and what every probe has to say there."""

    def __init__(self, name: str) -> None:
        self.given: Instance = instance(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.problem: Problem = problems.from_module(
                self.given.net, measures.cross_entropy, self.given.dataset(), name="layer"
            )
        self.params, state = self.problem.init(dtype=F64)
        self.batch = Batch(self.given.x, self.given.y, {}, state)
        self.oracle = Oracle(self.given)
        generator = torch.Generator().manual_seed(2)
        draw = lambda like: torch.randn((2, *like.shape), generator=generator, dtype=F64)
        self.pair = {n: draw(p) for n, p in self.params.items()}
        self.v = self.oracle.free({n: two[0] for n, two in self.pair.items()})
        self.bn = None if self.problem.separable else "coupled"

    def found(self) -> dict[str, Callable[[], Tensor]]:
        p, at = self.problem, (self.problem, self.params, self.batch)
        found: dict[str, Callable[[], Tensor]] = {
            "per-example gradients": lambda: torch.stack(
                list(leaves(probes.per_example_grads(*at, bn=self.bn), len(self.given.x)))
            )
        }
        for mode in MODES:
            found[mode] = lambda mode=mode: self.among_two(probes.make_hvp(*at, mode=mode))
        return found | {
            "ggnvp": lambda: same(flat(probes.ggnvp(*at, self.v)), self.among_two(probes.make_ggnvp(*at))),
            "fisher_vp": lambda: flat(probes.fisher_vp(*at, self.v)),
            "empirical fisher_vp": lambda: same(
                flat(probes.fisher_vp(*at, self.v, kind="empirical")),
                self.among_two(probes.make_fisher_vp(*at, kind="empirical")),
            ),
            "per_example_dots": lambda: probes.per_example_dots(*at, self.v, bn=self.bn),
            "trace": lambda: probes.trace(p, self.params, self.batch, key=KEY, samples=2).value,
        }

    def among_two(self, product: Callable[[Tree], Tree]) -> Tensor:
        """The product with v, asked together with another."""
        return next(leaves(product({name: torch.stack((self.v[name], self.pair[name][1])) for name in self.v}), 2))

    @functools.cached_property
    def right(self) -> dict[str, Tensor]:
        rows, v, ggn = self.oracle.rows(), flat(self.v), self.oracle.ggn()
        hv = self.oracle.hvp(self.v)
        keys = random.split(random.fold_in(KEY, random.PROBE), 2)
        drawn = [contract.draw(key, self.params) for key in keys]
        trace = sum(flat(u) @ self.oracle.hvp(u) for u in map(self.oracle.free, drawn)) / 2
        return {
            "per-example gradients": rows,
            **dict.fromkeys(MODES, hv),
            "ggnvp": ggn @ v,
            "fisher_vp": ggn @ v,
            "empirical fisher_vp": rows.T @ (rows @ v) / len(rows),
            "per_example_dots": rows @ v,
            "trace": trace,
        }


case_of = functools.cache(Case)


@functools.cache
def outcome(name: str) -> dict[str, str]:
    """`right`, `refused: why` or `WRONG: by how much` for each probe."""
    case, results = case_of(name), {}
    for column, ask in case.found().items():
        try:
            found = ask()
        except ConfigError as error:
            results[column] = f"refused: {error}"
            continue
        right = case.right[column]
        error = (found - right).norm().item() / max(right.norm().item(), 1e-12)
        results[column] = "right" if error < TOLERANCE else f"WRONG: off by {error:.1e}"
    return results


QUICK = (
    *("LayerNorm", "BatchNorm2d, batch statistics", "InstanceNorm2d", "LSTM", "MultiheadAttention, eval"),
    *("Embedding, padding_idx", "Embedding, sparse", "Conv2d", "weight_norm", "GLU", "HuberLoss"),
)
"""Layers whose derivatives torch has wrong or not at all, and a few others; the rest is large."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.large) for name in LAYERS]
)
def test_a_probe_is_right_or_refused(name: str) -> None:
    results = outcome(name)
    assert not [text for text in results.values() if text.startswith("WRONG")], results
    for column, text in results.items():
        if text.startswith("refused"):
            assert "layer" in text, text  # it names it
            assert column not in MODES or torch_is_wrong(name, column)


def torch_is_wrong(name: str, mode: str) -> bool:
    """Whether torch's own derivative of the module, without this package, raises or is not the right one."""
    case = case_of(name)

    def mean(p: Tree) -> Tensor:
        return case.oracle.losses(functional_call(case.oracle.net, p, (case.given.x,))).mean()

    ways = {
        "reverse-over-forward": lambda p, v: grad(lambda q: jvp(mean, (q,), (v,))[1])(p),
        "reverse-over-reverse": lambda p, v: vjp(grad(mean), p)[1](v)[0],
        "forward-over-reverse": lambda p, v: jvp(grad(mean), (p,), (v,))[1],
    }
    try:
        found = flat(ways[mode](case.params, case.v))
    except (RuntimeError, NotImplementedError):
        return True
    return not torch.allclose(found, case.right[mode], rtol=1e-4, atol=1e-7)


@pytest.mark.large
def test_most_layers_are_right_in_every_probe() -> None:
    right = [name for name in LAYERS if set(outcome(name).values()) == {"right"}]
    assert len(LAYERS) >= 45
    assert len(right) >= len(LAYERS) * 40 / 45, sorted(set(LAYERS) - set(right))


@pytest.mark.large
def test_known_operations_are_those_of_right_layers() -> None:
    seen = {"torch::autograd::AccumulateGrad"}
    for name in LAYERS:
        if set(outcome(name).values()) == {"right"}:
            case = case_of(name)
            trained = {n: p.clone().requires_grad_() for n, p in case.params.items()}
            seen |= nodes(case.problem.loss(trained, case.batch).mean())
    assert seen >= RIGHT, sorted(RIGHT - seen)


@pytest.mark.parametrize("name", ["LayerNorm", "weight_norm", "Embedding, padding_idx"])
def test_the_oracle_of_second_order_optimizers_is_right(name: str) -> None:
    case = case_of(name)
    oracle = ObjectiveOracle(case.problem, make_value_and_grad(case.problem), case.params, case.batch)
    for product in (oracle.hvp, oracle.make_hvp()):
        torch.testing.assert_close(flat(product(case.v)), case.right["reverse-over-forward"], rtol=1e-6, atol=1e-8)
    unit = torch.eye(flat(case.params).numel(), dtype=F64)
    columns = oracle.hvp(_unflat(unit, case.params))
    matrix = torch.stack(list(leaves(columns, len(unit))))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-12)


def _unflat(rows: Tensor, like: Tree) -> Tree:
    parts = rows.split([leaf.numel() for leaf in like.values()], 1)
    return {name: part.reshape(-1, *leaf.shape) for part, (name, leaf) in zip(parts, like.items(), strict=True)}


def page() -> str:
    lines = [
        "# Layers of torch.nn",
        "",
        "What the probes make of a net around each layer (`problems.from_module`), beside plain autograd in float64.",
        "This page is made by `python -m tests.probes.test_torch_layers`; a test holds it up to date. Each probe is",
        "right or refused with a `ConfigError`. Where a mode of `hvp` is refused, torch's own derivative is wrong or",
        "missing, which the test shows; `hvp` without a mode takes one that is right.",
        "",
        "| layer | " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * (len(COLUMNS) + 1),
    ]
    for name in LAYERS:
        words = [outcome(name)[column].split(":")[0] for column in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(words) + " |")
    return "\n".join([*lines, "", *conversions()]) + "\n"


def conversions() -> list[str]:
    """The section on what becomes of each layer."""
    lines = [
        "## What becomes of a layer",
        "",
        "A problem holds a copy of the module, in which each of these layers gets another `forward`; subclasses with",
        "a `forward` of their own keep it. `noise`: its draws are in `batch.noise`, as is what `F.dropout` and its",
        "like draw in a module's own `forward`. `state`: its buffers are in `batch.state`, those after a batch in the",
        "result of `loss_and_state`. Any other layer computes what it did, and is refused by its name where it draws",
        "or remembers.",
        "",
        "| layer | semantics | what becomes of it | its per-example gradient |",
        "|---|---|---|---|",
    ]
    for row in TABLE:
        name = row.stock.rpartition(".")[2] if isinstance(row.stock, str) else row.stock.__name__
        words = NAMES.get(name, name), row.semantics, row.becomes, row.per_example
        lines.append(f"| {' | '.join(words)} |")
    return [*lines, "", *DECLARED]


NAMES = {
    "_BatchNorm": "BatchNorm1d, 2d, 3d",
    "_InstanceNorm": "InstanceNorm1d, 2d, 3d",
    "_SpectralNorm": "parametrizations.spectral_norm",
    "StochasticDepth": "torchvision.ops.StochasticDepth",
}
DECLARED = [
    "A layer of your own that draws declares how: `draw_noise(key, shape)` returns the draw for an input of that",
    "shape, by functions of `deepobs_func.random`; `forward_with_noise(x, noise)` is its training phase.",
]


def test_the_page_says_what_becomes_of_each_layer() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith("\n".join(conversions()) + "\n")


@pytest.mark.large
def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.probes.test_torch_layers`"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
