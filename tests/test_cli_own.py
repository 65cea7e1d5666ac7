"""Problems and optimizers of a user's own file on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepobs_func import cli, records
from deepobs_func.records import RunRecord

MODULE = '''
import numpy as np
import torch
from torch import nn
from deepobs_func import datasets, optimizers, problems
from deepobs_func.optimizers import Optimizer
from deepobs_func.problems import measures

def small():
    r = np.random.RandomState(0)
    split = lambda n: (r.normal(size=(n, 5)).astype(np.float32), r.randint(0, 3, n))
    data = datasets.from_arrays("mine", split(40), split(20))
    return problems.from_module(
        nn.Linear(5, 3), measures.cross_entropy, data, name="mine", batch_size=8, epochs=2)

problem = small()

def mine(lr, decay=0.9):
    """Signs of an average of the gradients."""
    def init(params, key):
        return {name: torch.zeros_like(leaf) for name, leaf in params.items()}

    def update(oracle, mean, params):
        grads = oracle.grad()
        mean = {name: decay * mean[name] + (1 - decay) * grads[name] for name in params}
        return {name: leaf - lr * mean[name].sign() for name, leaf in params.items()}, mean

    return Optimizer(init, update)

def halves(named_parameters, lr, factor=0.5, nesterov=False):
    return torch.optim.SGD([p for _, p in named_parameters], lr=lr * factor, momentum=0.9, nesterov=nesterov)

def broken():
    return problems.nowhere

def other_each_time(calls=[]):
    def make():
        calls.append(0)
        net = nn.Linear(5, 3)
        nn.init.constant_(net.bias, len(calls))
        return net
    return problems.from_module(make, measures.cross_entropy, problem.dataset)

class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x / self.count

def counts():
    net = nn.Sequential(nn.Linear(5, 5), Counts(), nn.Linear(5, 3))
    return problems.from_module(net, measures.cross_entropy, problem.dataset)

def ragged():
    items = [(list(range(1 + n % 2)), n % 3) for n in range(8)]
    return problems.from_module(nn.Linear(5, 3), measures.cross_entropy, datasets.from_torch("ragged", items, items))

class Lines(torch.utils.data.Dataset):
    """A line for each class, cut anywhere."""
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, n):
        start = int(torch.randint(3, ()))
        return {"line": torch.arange(start, start + 5) * (n % 3 - 1.0), "mask": torch.arange(5) > 4 - n % 2}, n % 3

class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, line, mask):
        return self.layer(line.masked_fill(mask, 0.0))

def lines():
    data = datasets.from_torch("lines", Lines(40), Lines(16), classes=3, stream=True)
    return problems.from_module(Masked, measures.cross_entropy, data, name="lines", batch_size=8, epochs=2)

def unsure():
    return datasets.from_torch("lines", Lines(40), Lines(16))

def forgets(lr=0.1):
    def update(oracle, state, params):
        for name, grad in oracle.grad().items():
            state[name] += grad
        return {name: leaf - lr * state[name] for name, leaf in params.items()}, state
    return Optimizer(lambda params, key: {name: torch.zeros_like(leaf) for name, leaf in params.items()}, update)
'''
BROKEN = MODULE.splitlines().index("    return problems.nowhere") + 1


@pytest.fixture
def deepobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Calls the entry point in a folder with a file of the user's; the exit code and what was said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "my_file.py").write_text(MODULE)
    (tmp_path / "my_package" / "late.py").write_text("from my_package.deeper import value\n")
    (tmp_path / "my_package" / "deeper.py").write_text("import math\nvalue = 1 / 0\n")

    def call(command: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["deepobs", *command.split()])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        found = capsys.readouterr()
        return int(caught.value.code or 0), found.out + found.err

    yield call
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def only_record() -> RunRecord:
    (path,) = Path("results").rglob("*.json")
    return records.read(path)


@pytest.mark.parametrize("name", ["problem", "small"])
def test_a_problem_by_path(deepobs: Callable[[str], tuple[int, str]], name: str) -> None:
    """The value itself, and a function that makes it."""
    code, said = deepobs(f"run my_package.my_file:{name} --optimizer sgd --lr 0.1 --quiet --valid 8")
    assert code == 0, said
    record = only_record()
    assert (record.testproblem, len(record.test_losses), len(record.valid_losses or [])) == ("mine", 3, 3)
    assert record.extra["source"] == {"problem": f"my_package.my_file:{name}"}
    assert set(record.extra["code"]) == {"problem"}


def test_a_functional_optimizer_by_path_with_its_hyperparameters(deepobs: Callable[[str], tuple[int, str]]) -> None:
    command = "run my_package.my_file:problem --optimizer my_package.my_file:mine --lr 0.01 --decay 0.5 --clip-norm 1"
    code, said = deepobs(f"{command} --quiet")
    assert code == 0, said
    record = only_record()
    assert (record.optimizer, record.hyperparams) == ("my_package.my_file.mine", {"decay": 0.5})
    assert record.test_losses[-1] < record.test_losses[0]
    assert record.extra["calls"]["gradients"] == [5, 10]
    assert "decay__5.e-01__lr__1.e-02__clip_norm__1.e+00__" in record.path.parent.name


def test_a_factory_of_a_torch_optimizer_by_path(deepobs: Callable[[str], tuple[int, str]]) -> None:
    command = "run my_package.my_file:problem --optimizer my_package.my_file:halves --lr 0.1 --nesterov True -q"
    code, said = deepobs(f"{command} --schedule cosine --warm-up 0.5")
    assert code == 0, said
    assert only_record().hyperparams == {"factor": 0.5, "nesterov": True}


def test_hyperparameters_that_a_class_passes_on(deepobs: Callable[[str], tuple[int, str]]) -> None:
    command = "run my_package.my_file:problem --optimizer tests.optimizers.classes.SharpnessAware --lr 0.1 --quiet"
    code, said = deepobs(f"{command} --base_optimizer torch.optim.SGD --opt.momentum 0.9 --opt.nesterov=True")
    assert code == 0, said
    assert only_record().hyperparams == {
        "base_optimizer": "torch.optim.SGD", "rho": 0.05, "momentum": 0.9, "nesterov": True
    }  # fmt: skip


def test_a_problem_is_examined(deepobs: Callable[[str], tuple[int, str]]) -> None:
    code, said = deepobs("check-problem my_package.my_file:small --no-compile")
    assert code == 0, said
    assert "good population by vmap" in said
    assert "good derivatives by reverse-over-forward: right" in said
    assert "per-example formulas: of 2 of 2 parameters" in said
    code, said = deepobs("check-problem quadratic_deep --no-compile --json")
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[0] == {"check": "parameters", "good": None, "found": "100"}
    code, said = deepobs("check-problem my_package.my_file:broken --no-compile")
    assert code == 2
    assert f"my_file.py:{BROKEN}" in said


@pytest.mark.large
def test_streamed_items_of_several_inputs_go_by_the_command_line(deepobs: Callable[[str], tuple[int, str]]) -> None:
    """What they draw follows from the seed alone, whoever reads."""
    for index, workers in enumerate((0, 1)):
        command = f"run my_package.my_file:lines --optimizer sgd --lr 0.1 --quiet --workers {workers} --compile off"
        code, said = deepobs(f"{command} --output-dir {index}")
        assert code == 0, said
    one, other = (records.read(*Path(folder).rglob("*.json")) for folder in ("0", "1"))
    assert one.minibatch_train_losses == other.minibatch_train_losses
    assert one.test_losses == other.test_losses
    assert one.extra["data"]["source"] == "items"
    code, said = deepobs("describe my_package.my_file:lines")
    assert "40 + 16 of shape line 5, mask 5, 3 classes" in said
    assert json.loads(deepobs("describe my_package.my_file:lines --json")[1])["data"]["example"] == {
        "line": [5],
        "mask": [5],
    }


def test_an_optimizer_is_tried(deepobs: Callable[[str], tuple[int, str]]) -> None:
    code, said = deepobs(
        "check-optimizer my_package.my_file:mine --decay 0.8 --no-compile --problem my_package.my_file:problem"
    )
    assert code == 0, said
    assert "kind: functional; checked at lr=0.01" in said
    assert "good resumed: bit for bit" in said
    command = "check-optimizer my_package.my_file:forgets --no-compile --json --problem my_package.my_file:problem"
    code, said = deepobs(command)
    found = {line["check"]: line for line in map(json.loads, said.splitlines())}
    assert code == 1
    assert found["pure"]["good"] is False
    assert "it changes its state in place" in found["pure"]["found"]
    for wrong, words in (
        ("my_package.my_file:forgets --decai 1", "--decai"),
        ("adan", "adam"),
        ("torch.optim.Adm", "Adam"),
        ("--momentum 0.9 torch.optim.SGD", "where it is an argument, before all options"),
    ):
        code, said = deepobs(f"check-optimizer {wrong} --no-compile")
        assert (code, words in said, "Traceback" in said) == (2, True, False)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("my_package.my_file:broken --optimizer sgd", ["AttributeError", f"my_file.py:{BROKEN}", "PROBLEM"]),
        ("my_package.my_file:mine --optimizer sgd", ["PROBLEM my_package.my_file:mine: it raised TypeError", "'lr'"]),
        ("my_package.my_file:MODULE --optimizer sgd", ["Unknown name in my_package.my_file: 'MODULE'"]),
        (
            "my_package.late:problem --optimizer sgd",
            ["ZeroDivisionError: division by zero (", "late.py:1 -> ", "deeper.py:2: value = 1 / 0)"],
        ),
        (
            "my_package.my_file:other_each_time --optimizer sgd",
            ["make makes different modules under the same key", "bias"],
        ),
        ("my_package.my_file:counts --optimizer sgd", ["changes its buffers ['1.count']", "nn.GroupNorm", "eval()"]),
        (
            "my_package.my_file:ragged --optimizer sgd",
            ["inputs of one shape in train", "(1,) at item 0 and (2,) at item"],
        ),
        ("my_package.my_file:unsure --optimizer sgd", ["items of train are random", "stream="]),
        ("my_package.nowhere:small --optimizer sgd", ["cannot be imported: ModuleNotFoundError", "my_package.nowhere"]),
        ("my_package.my_file:problem --optimizer my_package.my_file:nope", ["Unknown name", "'nope'"]),
        ("my_package.my_file:problem --optimizer my_package.my_file:mine --decai 1", ["--decai", "decay"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    deepobs: Callable[[str], tuple[int, str]], what: str, words: list[str]
) -> None:
    code, said = deepobs(f"run {what} --lr 0.1")
    assert code == 2
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not in: {said}"
    assert "Traceback" not in said
    assert len(said[said.index("Error: ") :].splitlines()) == 1
    assert {path.name for path in Path().iterdir()} == {"my_package"}
