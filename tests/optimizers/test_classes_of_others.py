"""Every optimizer class of `pytorch_optimizer` and `schedulefree`: behind the adapter it does what it does alone."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import distributed, nn

from deepobs_func import random
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.torch_optim import from_class, load_class
from tests.optimizers.loops import Case, Named, check, start

pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore::UserWarning")]  # theirs
SGD = torch.optim.SGD

REFUSED = {
    "pytorch_optimizer.LOMO": "steps while the backward pass runs, in fused_backward(loss, lr); step() raises",
    "pytorch_optimizer.AdaLOMO": "steps while the backward pass runs, in fused_backward(loss, lr); step() raises",
    "pytorch_optimizer.PCGrad": "projects the gradients of several objectives, in pc_backward(objectives)",
    "pytorch_optimizer.SafeFP16Optimizer": "scales the loss of float16 weights, in backward(loss)",
}
NO_LOOP = {"pytorch_optimizer.GSAM": "its closure returns the outputs of a model beside the loss; it has no plain step"}


def by_groups(path: str) -> Callable[[Named], torch.optim.Optimizer]:
    """Muon's relatives: matrices in one group, everything else in another."""

    def make(named: Named) -> torch.optim.Optimizer:
        groups = [
            {"params": [leaf for _, leaf in named if (leaf.ndim == 2) == matrix], "use_muon": matrix}
            for matrix in (True, False)
        ]
        return load_class(path)(groups, lr=0.01)

    return make


def with_model(cls: type, **options: object) -> Callable[[Named], torch.optim.Optimizer]:
    """Classes whose first argument is a model."""

    def make(named: Named) -> torch.optim.Optimizer:
        model = nn.Module()
        model.first, model.second = nn.Module(), nn.Module()
        for name, leaf in named:
            owner, _, own = name.partition(".")
            model.get_submodule(owner).register_parameter(own, leaf)
        return cls(model, lr=0.01, **options)

    return make


def case_of(path: str) -> Case:
    """How the class is used, where that is not `cls(parameters, lr=0.01)` and `step()`."""
    cls, name = load_class(path), path.rpartition(".")[2]
    if name in ("Lookahead", "Magma", "OrthoGrad", "ScheduleFreeWrapper", "TRAC"):
        wrapped = lambda named: cls(SGD([leaf for _, leaf in named], lr=0.1))
        return Case(cls, 0.1, {"optimizer": SGD}, wrapped)
    if name in ("AdaGO", "AdaMuon", "DistributedMuon", "Muon", "MuonClip", "NorMuon"):
        return Case(cls, make=by_groups(path), factory=True)
    if name == "WSAM":
        inside = lambda named: cls(nn.Module(), [leaf for _, leaf in named], SGD, lr=0.01)
        return Case(cls, 0.01, {"base_optimizer": SGD}, inside, closure=True)
    if name.startswith(("DAdapt", "Prodigy")):
        return Case(cls, 1.0)
    if name == "AdamMini":
        return Case(cls, make=with_model(cls))
    options = {
        "AdaHessian": {"graph": True},
        "AdaMod": {"lr": 1.0},
        "AdaShift": {"hyper": {"keep_num": 2}},
        "AliG": {"closure": True},
        "BSAM": {"hyper": {"num_data": 16}, "closure": True},
        "FAdam": {"dtype": torch.float32},
        "FriendlySAM": {"hyper": {"base_optimizer": SGD, "momentum": 0.9}, "closure": True},
        "LookSAM": {"hyper": {"base_optimizer": SGD, "momentum": 0.9}, "closure": True},
        "RAdam": {"hyper": {"degenerated_to_sgd": True}},
        "Ranger21": {"hyper": {"num_iterations": 10}},
        "SAM": {"hyper": {"base_optimizer": SGD, "momentum": 0.9}, "closure": True},
        "SaRA": {"hyper": {"threshold": 1.0}},
        "SophiaH": {"graph": True},
        "SpectralSphere": {"matrices": True},
    }
    found = options.get(name, {})
    closure = name.startswith("Emo") or name.endswith("Closure")  # the former follow the loss that a closure returns
    return Case(cls, **{"closure": closure, **found})  # type: ignore[arg-type]


@functools.cache
def paths() -> list[str]:
    """Each class once, torch's own left out."""
    found = {}
    for name in ("pytorch_optimizer", "schedulefree"):
        module = importlib.import_module(name)
        for key, value in vars(module).items():
            own = isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
            if own and value.__module__.startswith(name):
                found.setdefault(value, f"{name}.{key}")
    return sorted(found.values())


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one, for classes that ask for one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_classes_equal_themselves_in_a_plain_loop(subtests: pytest.Subtests, alone: None) -> None:
    tested = [path for path in paths() if path not in REFUSED | NO_LOOP]
    assert len(tested) >= 0.9 * len(paths())
    assert len(tested) > 130
    for path in tested:
        with subtests.test(path):
            check(case_of(path))


@pytest.mark.parametrize("path", REFUSED)
def test_classes_that_make_their_own_backward_pass_are_refused(path: str) -> None:
    cls = load_class(path)
    hyper = {"optimizer": SGD} if path.endswith(("PCGrad", "Optimizer")) else {}
    with pytest.raises(ConfigError, match=rf"{cls.__name__}.*makes its own backward pass .*step\(\)"):
        from_class(cls, 0.1, hyper).init(start(Case(cls)), random.key(0))
