"""The command line: what it lists, what it runs, and one clear line for every mistake."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from deepobs_func import cli, optimizers, problems, records
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.records import RunRecord
from tests.command import Deepobs

MAIN = (sys.executable, "-c", "from deepobs_func.cli import main; main()")
NO_TORCH = """
import sys
from deepobs_func.cli import main
try:
    main()
finally:
    sys.stderr.write(repr([name for name in ("torch", "matplotlib", "scipy") if name in sys.modules]))
"""


def words(command: str) -> list[str]:
    """`P` stands for a short run of a cheap problem."""
    return command.replace("P ", "run quadratic_deep --lr 1e-2 --epochs 1 ", 1).split()


def only_record(folder: Path) -> RunRecord:
    (path,) = (folder / "results").rglob("*.json")
    return records.read(path)


def snapshot(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


# Help, list, completion


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["list"], ["--version"], ["demo", "--help"]])
def test_without_torch(args: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", NO_TORCH, *args], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]")
    assert done.stdout.strip()


@pytest.mark.parametrize(
    ("line", "expected"),
    [("deepobs run fmnist_", ["fmnist_logreg", "fmnist_mlp"]), ("deepobs run x --optimizer ada", ["adam", "adamw"])],
)
def test_completion_without_torch(line: str, expected: list[str]) -> None:
    environment = os.environ | {
        "_DEEPOBS_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], capture_output=True, text=True, check=False, env=environment
    )
    assert done.stderr == "[]"
    assert {f"plain,{name}" for name in expected} <= set(done.stdout.split())
    assert "plain,mnist_mlp" not in done.stdout.split()


def test_list_has_every_problem_and_optimizer() -> None:
    result = CliRunner().invoke(cli.cli, ["list"])
    assert result.exit_code == 0
    shown = result.output.split()
    assert set(problems.names()) | set(optimizers.names()) <= set(shown)
    assert f"{problems.spec_of('mnist_mlp').parameters:,}" in shown


def test_help_of_an_optimizer_lists_its_hyperparameters() -> None:
    result = CliRunner().invoke(cli.cli, ["run", "--optimizer", "adamw", "--help"])
    assert result.exit_code == 0
    assert all(text in result.output for text in ("--beta1", "--epsilon", "--opt.weight_decay", "default: 0.01"))
    assert "--weight_decay" not in result.output.replace("--opt.weight_decay", "")


def test_the_help_keeps_its_lines(deepobs: Deepobs) -> None:
    assert "  deepobs list\n  deepobs run " in deepobs("--help").out


def test_no_command_shows_the_help(deepobs: Deepobs) -> None:
    outcome = deepobs()
    assert outcome.code == 2
    assert "deepobs demo" in outcome.out + outcome.err


# Mistakes

BAD = {
    "unknown command": ("runn", ["runn"]),
    "unknown problem": ("run mnist_mpl --optimizer sgd --lr 1", ["'mnist_mpl'", "Did you mean 'mnist_mlp'?"]),
    "problem like no other": ("run xyz --optimizer sgd --lr 1", ["'xyz'", "deepobs list"]),
    "no problem": ("run --optimizer sgd --lr 1", ["PROBLEM"]),
    "no optimizer": ("run quadratic_deep --lr 1", ["--optimizer"]),
    "no learning rate": ("run quadratic_deep --optimizer sgd", ["--lr"]),
    "unknown optimizer": ("P --optimizer adamm", ["'adamm'", "Did you mean 'adam'?", "torch.optim.AdamW"]),
    "unknown protocol": ("P --optimizer sgd --protocol deepobs", ["'deepobs'", "deepobs-1.1.2"]),
    "unknown hyperparameter": ("P --optimizer adam --momentum 0.9", ["'--momentum'", "beta1, beta2, epsilon"]),
    "hyperparameter of none": ("P --optimizer sgd --momentum 0.9", ["'--momentum'", "none beside --lr"]),
    "hyperparameter of no class": ("P --optimizer torch.optim.SGD --beta1 0.9", ["'--beta1'", "nesterov"]),
    "hyperparameter no number": ("P --optimizer adam --beta1 high", ["--beta1", "'high'"]),
    "hyperparameter nan": ("P --optimizer adam --beta1 nan", ["beta1", "nan", "finite"]),
    "hyperparameter no boolean": ("P --optimizer torch.optim.SGD --nesterov maybe", ["--nesterov", "'maybe'"]),
    "hyperparameter no whole number": ("P --optimizer newton_cg --cg_steps 2.5", ["cg_steps is 2.5", "whole number"]),
    "hyperparameter no choice": ("P --optimizer sgd_cabs --bn cupled", ["'cupled'", "Did you mean 'coupled'?"]),
    "optimizer without its GGN": (
        "run two_d_beale --optimizer newton_cg --lr 1",
        ["two_d_beale has none", "adahessian or sophia_h"],
    ),
    "unknown compile": ("P --optimizer sgd --compile yes", ["--compile", "'yes'", "auto, on, off"]),
    "unknown on-divergence": ("P --optimizer sgd --on-divergence go", ["--on-divergence", "'go'", "stop, continue"]),
    "lr 0": ("P --optimizer sgd --lr 0", ["--lr 0.0", "positive and finite"]),
    "lr negative": ("P --optimizer sgd --lr -1", ["--lr -1.0", "positive and finite"]),
    "lr nan": ("P --optimizer sgd --lr nan", ["--lr nan", "positive and finite"]),
    "lr inf": ("P --optimizer sgd --lr inf", ["--lr inf", "positive and finite"]),
    "lr no number": ("P --optimizer sgd --lr fast", ["--lr", "'fast'"]),
    "batch size 0": ("P --optimizer sgd --batch-size 0", ["--batch-size 0", "from 1"]),
    "batch size negative": ("P --optimizer sgd --bs -3", ["--batch-size -3", "from 1"]),
    "epochs 0": ("P --optimizer sgd --epochs 0", ["--epochs 0", "from 1"]),
    "epochs no number": ("P --optimizer sgd -N 1.5", ["--epochs", "'1.5'"]),
    "log interval 0": ("P --optimizer sgd --train-log-interval 0", ["--train-log-interval 0", "from 1"]),
    "seed negative": ("P --optimizer sgd --seed -1", ["--seed -1", "from 0"]),
    "batch larger than data": ("P --optimizer sgd --batch-size 1001", ["--batch-size 1001", "1000 training"]),
    "schedule of unequal lengths": (
        "P --optimizer sgd --lr-sched-epochs 1 2 --lr-sched-factors 0.1",
        ["--lr-sched-epochs has 2 values", "--lr-sched-factors 1"],
    ),
    "half a schedule": ("P --optimizer sgd --lr-sched-epochs 1 2", ["--lr-sched-factors", "both or neither"]),
    "schedule not ascending": (
        "P --optimizer sgd --lr-sched-epochs 2 1 --lr-sched-factors 1 1",
        ["--lr-sched-epochs 2 1", "increase"],
    ),
    "schedule epoch no number": (
        "P --optimizer sgd --lr-sched-epochs 1.5 --lr-sched-factors 1",
        ["--lr-sched-epochs", "'1.5'"],
    ),
    "schedule beyond the run": (
        "P --optimizer sgd --lr-sched-epochs 1 --lr-sched-factors 0.1",
        ["--lr-sched-epochs 1", "--epochs 1", "below 1"],
    ),
    "optimizer in capitals": ("P --optimizer AdamW", ["'AdamW'", "Did you mean 'adamw'?"]),
    "tracked without plain SGD": ("P --optimizer adam --track cabs", ["--track cabs", "SGD without momentum"]),
    "schedule factor negative": (
        "P --optimizer sgd --lr-sched-epochs 1 --lr-sched-factors -1",
        ["--lr-sched-factors -1.0", "positive"],
    ),
    "weight decay without L2": (
        "P --optimizer adamw --weight-decay 0.1",
        ["quadratic_deep has no L2", "--opt.weight_decay"],
    ),
    "class of no module": ("P --optimizer no_such_module.Sgd", ["'no_such_module.Sgd'", "cannot be imported"]),
    "class that a module lacks": ("P --optimizer torch.optim.Adamm", ["'Adamm'", "Did you mean 'Adam'?"]),
    "no optimizer class": ("P --optimizer torch.nn.Linear", ["torch.nn.Linear", "not a subclass"]),
    "class that refuses its arguments": (
        "P --optimizer torch.optim.Adam --betas 0.9,2.0",
        ["torch.optim.adam.Adam", "Invalid beta parameter", "adam.py:"],
    ),
    "required hyperparameter left out": ("P --optimizer my_module.Demanding", ["Demanding", "'strength'"]),
    "class that raises": ("P --optimizer my_module.Broken", ["RuntimeError: out of order", "my_module.py:"]),
    "module that raises": ("P --optimizer broken_module.Sgd", ["ZeroDivisionError", "broken_module.py:1"]),
    "bad device": ("P --optimizer sgd --device cdua", ["--device cdua", "'auto' or 'cpu'"]),
    "device that is not there": ("P --optimizer sgd --device cuda:99", ["--device cuda:99", "'auto' or 'cpu'"]),
    "data are a file": ("run mnist_logreg --optimizer sgd --lr 1 --data a_file", ["a_file is no folder", "synthetic"]),
    "output is a file": ("P --optimizer sgd --output-dir a_file", ["a_file cannot be written", "--output-dir"]),
}

SGD_DEFAULTS: dict[str, Any] = {
    "momentum": 0,
    "dampening": 0,
    "weight_decay": 0,
    "nesterov": False,
    "maximize": False,
    "foreach": None,
    "differentiable": False,
    "fused": None,
}
ADAMW_DEFAULTS: dict[str, Any] = {
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "weight_decay": 0.01,
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "SGD": SGD_DEFAULTS,
    "my_module.MyOptimizer": SGD_DEFAULTS,
    "Adam": ADAMW_DEFAULTS | {"weight_decay": 0, "decoupled_weight_decay": False},
    "AdamW": ADAMW_DEFAULTS,
    "LBFGS": {
        "max_iter": 20,
        "max_eval": None,
        "tolerance_grad": 1e-7,
        "tolerance_change": 1e-9,
        "history_size": 100,
        "line_search_fn": None,
    },
}

MY_MODULE = """
import torch

class MyOptimizer(torch.optim.SGD):
    pass

class Broken(torch.optim.SGD):
    def __init__(self, params, lr):
        raise RuntimeError("out of order")

class Demanding(torch.optim.SGD):
    def __init__(self, params, lr, strength):
        super().__init__(params, lr * strength)

class Choosy(torch.optim.SGD):
    def __init__(self, params, lr, choice=None):
        super().__init__(params, lr)
"""


@pytest.fixture
def my_module(tmp_path: Path) -> Any:
    """Files of the user's in the current folder."""
    (tmp_path / "my_module.py").write_text(MY_MODULE)
    (tmp_path / "broken_module.py").write_text("1 / 0\n")
    (tmp_path / "a_file").write_text("mine")
    yield
    sys.modules.pop("my_module", None)


@pytest.mark.parametrize("mistake", list(BAD))
def test_a_mistake_exits_with_2_and_one_clear_message(
    tmp_path: Path, deepobs: Deepobs, my_module: None, mistake: str
) -> None:
    command, fragments = BAD[mistake]
    before = snapshot(tmp_path)
    code, out, err = deepobs(*words(command))
    assert (code, out) == (2, "")
    message = err[err.index("Error: ") :]
    missing = [fragment for fragment in fragments if fragment not in message]
    assert not missing, f"{missing} not in: {message}"
    assert message.count("\n") == 1
    assert "Traceback" not in err
    assert {path for path in snapshot(tmp_path) - before if "__pycache__" not in path.parts} == set()


def test_missing_data(tmp_path: Path, deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(spec: DatasetSpec, folder: Path) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("deepobs_func.datasets.download.idx", no_network)
    code, out, err = deepobs("run", "mnist_logreg", "--optimizer", "sgd", "--lr", "1", "--data", "nowhere")
    assert (code, out) == (2, "")
    assert all(part in err for part in ("MNIST is not in nowhere", "no route to host", "synthetic"))
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--optimizer adam --lr nan", "--lr nan: a learning rate must be positive and finite."),
        ("--optimizer AdamW --lr 1", "Unknown optimizer 'AdamW'. Did you mean 'adamw'?"),
        ("--optimizer adam --lr 1 --track cabs", "--track cabs: it is derived for SGD without momentum, not for adam"),
        ("--optimizer sgd --lr 1 --compile yes", "Unknown choice for --compile 'yes'"),
    ],
)
def test_a_mistake_is_found_without_torch_and_data(tmp_path: Path, options: str, message: str) -> None:
    command = [sys.executable, "-c", NO_TORCH, "run", "mnist_mlp", "--data", "nowhere", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.endswith("[]"), "torch was imported"
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_in_a_path(tmp_path: Path, deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    assert deepobs(*words("P --optimizer sgd --quiet --output-dir ~/out")).code == 0
    assert not (tmp_path / "~").exists()
    assert len(list((tmp_path / "home" / "out" / "quadratic_deep" / "sgd").rglob("*.json"))) == 1


def test_a_record_that_lies_elsewhere_is_said(
    tmp_path: Path, deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(record: RunRecord, output_dir: str) -> records.Written:
        return records.Written(tmp_path / "there.json", "results cannot be written (No space left on device).")

    monkeypatch.setattr(records, "write_anywhere", full_disk)
    code, out, err = deepobs(*words("P --optimizer sgd --quiet"))
    assert (code, out) == (0, f"{tmp_path / 'there.json'}\n")
    assert err == "results cannot be written (No space left on device).\n"


def test_exit_code_of_the_process(tmp_path: Path) -> None:
    command = [*MAIN, "run", "mnist_mpl", "--optimizer", "sgd", "--lr", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: Unknown problem 'mnist_mpl'. Did you mean 'mnist_mlp'?\n"


def test_a_full_disk_is_said(tmp_path: Path, deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    spec = tmp_path / "study.yaml"
    spec.write_text("problems: [two_d_beale]\noptimizers: {sgd: {lr: 0.1}}\nseeds: [1]\n")
    monkeypatch.setattr(Path, "mkdir", refused)
    found = deepobs("sweep", str(spec))
    assert found.code == 2
    assert "cannot be written (No space left on device). Make room there" in found.err
    assert "Traceback" not in found.err


def test_a_defect_of_ours_keeps_its_traceback(deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*args: Any, **kwargs: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr("deepobs_func.runner.loop.run", defect)
    with pytest.raises(ValueError, match="a defect"):
        deepobs(*words("P --optimizer sgd"))


# Mistakes in the options of what a run keeps, shows and changes

EARLY = {
    "target without a value": ("P --stop-at test_loss", ["--stop-at test_loss", "QUANTITY=VALUE"]),
    "target no number": ("P --stop-at test_loss=low", ["--stop-at test_loss=low", "QUANTITY=VALUE"]),
    "target nan": ("P --stop-at test_loss=nan", ["--stop-at test_loss=nan", "must be a number"]),
    "unknown target": ("P --stop-at test_acuracy=0.9", ["'test_acuracy'", "Did you mean 'test_accuracy'?"]),
    "target that the problem lacks": ("P --stop-at test_accuracy=0.9", ["quadratic_deep has no accuracy", "test_loss"]),
    "target without a split": ("P --stop-at valid_loss=0.9", ["--stop-at valid_loss", "--valid", "test_loss"]),
    "budget 0": ("P --max-seconds 0", ["--max-seconds 0.0", "positive"]),
    "budget nan": ("P --max-seconds nan", ["--max-seconds nan", "positive"]),
    "lines into a folder": ("P --log-json .", [". cannot be written", "another file"]),
    "execution of no file": ("P --execution nowhere.json", ["cannot be read from nowhere.json", "record"]),
    "execution of another file": ("P --execution a_file", ["cannot be read from a_file", "record"]),
    "execution of another content": ("P --execution odd.json", ["odd.json", "'steps'", "steps_per_call"]),
    "keep 0": ("P --keep 0", ["--keep 0", "from 1"]),
    "keep no number": ("P --keep all", ["--keep", "'all'"]),
    "checkpoint-every of no unit": ("P --checkpoint-every abc", ["--checkpoint-every 'abc'", "500steps"]),
    "checkpoint-every 0": ("P --checkpoint-every 0", ["--checkpoint-every '0'", "500steps"]),
    "unknown schedule": ("P --schedule foo", ["--schedule", "'foo'", "cosine"]),
    "schedule nearly": ("P --schedule cosin", ["Did you mean 'cosine'?"]),
    "schedule not published": ("P --schedule published", ["--schedule published", "quadratic_deep"]),
    "warm-up negative": ("P --warm-up -1", ["--warm-up -1.0", "at least 0"]),
    "warm-up as long as the run": ("P --warm-up 1", ["--warm-up 1.0", "below 1"]),
    "decay-epochs without steps": ("P --decay-epochs 1 2", ["--decay-epochs", "--schedule steps"]),
    "decay-epochs of another schedule": (
        "P --schedule cosine --decay-epochs 1",
        ["--decay-epochs", "--schedule steps"],
    ),
    "steps without decay-epochs": ("P --schedule steps", ["--schedule steps needs --decay-epochs"]),
    "decay-factor 0": ("P --schedule exponential --decay-factor 0", ["--decay-factor 0.0", "positive"]),
    "clip-norm 0": ("P --clip-norm 0", ["--clip-norm 0.0", "positive"]),
    "clip-value negative": ("P --clip-value -1", ["--clip-value -1.0", "positive"]),
    "resume no file": ("resume nowhere.safetensors", ["nowhere.safetensors is no readable checkpoint"]),
    "resume another file": ("resume a_file", ["a_file is no readable record"]),
    "resume a folder": ("resume .", ["is no readable record"]),
}


@pytest.mark.parametrize("mistake", list(EARLY))
def test_a_mistake_is_found_before_data_are_loaded(
    tmp_path: Path, deepobs: Deepobs, my_module: None, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    def load(*args: Any) -> None:
        raise AssertionError("data were loaded")

    monkeypatch.setattr("deepobs_func.runner.training.make_batches", load)
    (tmp_path / "odd.json").write_text('{"steps": 3}')
    command, fragments = EARLY[mistake]
    before = snapshot(tmp_path)
    code, out, err = deepobs(*words(command.replace("P ", "P --optimizer sgd ", 1)))
    message = err[err.index("Error: ") :]
    assert (code, out, message.count("\n"), "Traceback" in err) == (2, "", 1, False)
    assert [fragment for fragment in fragments if fragment not in message] == [], message
    assert snapshot(tmp_path) == before


# Runs that go on

RESUMED = "run quadratic_deep --optimizer adam --lr 1e-2 --epochs 4 --compile off"


def test_the_same_command_goes_on_where_it_was(
    tmp_path: Path, deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts where there is nothing, goes on where it was, and does nothing where all is done; each is said."""
    whole = deepobs(*words(f"{RESUMED} --output-dir other"))
    first = deepobs(*words(f"{RESUMED} --stop-at test_loss=280 --resume"))
    assert first.out.splitlines()[0] == "no checkpoint of this run: it starts"
    assert "Stopped: test_loss " in first.out
    assert not (tmp_path / "results").exists()
    (kept,) = (tmp_path / "results.state").rglob("*.safetensors")
    done = int(kept.stem[6:13])
    second = deepobs(*words(f"{RESUMED} --resume"))
    assert second.out.splitlines()[0] == f"going on after epoch {done}, from {kept}"
    losses = lambda out: [line.split("  ")[1:3] for line in out.splitlines() if line.startswith("epoch ")]
    assert losses(first.out) + losses(second.out) == losses(whole.out)
    assert not kept.exists()
    third = deepobs(*words(f"{RESUMED} --resume"))
    assert third.out.splitlines()[0] == "This run is finished already; nothing was done."
    (path,) = (tmp_path / "results").rglob("*.json")
    assert third.out.splitlines()[1:] == [str(path.relative_to(tmp_path))]
    (partial,) = (tmp_path / "results.state").rglob("*.json.partial")
    assert deepobs("resume", str(partial)).out == third.out


@pytest.mark.parametrize("suffix", [".safetensors", ".json.partial"])
def test_a_file_says_where_to_go_on_from_any_folder(
    tmp_path: Path, deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    deepobs(*words(f"{RESUMED} --stop-at test_loss=1e9"))
    (path,) = (tmp_path / "results.state").rglob(f"*{suffix}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, out, err = deepobs("resume", f"../{path.relative_to(tmp_path)}", "--log-json", "lines")
    assert (code, err) == (0, "")
    assert out.startswith("going on after epoch 0")
    assert only_record(tmp_path).num_epochs == 4
    assert len((tmp_path / "elsewhere" / "lines").read_text().splitlines()) == 5


def test_an_unreadable_checkpoint_is_said(tmp_path: Path, deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch) -> None:
    deepobs(*words(f"{RESUMED} --stop-at test_loss=1e9"))
    (path,) = (tmp_path / "results.state").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    monkeypatch.setattr("deepobs_func.runner.training.make_batches", None)  # no data are loaded
    for command in (f"{RESUMED} --resume", f"resume {path}"):
        code, out, err = deepobs(*words(command))
        assert (code, out) == (2, "")
        assert err.startswith(f"Error: {path} is no readable checkpoint: ")
        assert err.count("\n") == 1


# Runs


def test_record_lands_in_deepobss_folder(tmp_path: Path, deepobs: Deepobs) -> None:
    code, out, err = deepobs(*words("P --optimizer momentum --momentum 0.99 -r 7 --bs 100"))
    assert (code, err) == (0, "")
    setting = "num_epochs__1__batch_size__100__momentum__9.9e-01__lr__1.e-02__protocol__default"
    (path,) = tmp_path.rglob("*.json")
    assert path.parent == tmp_path / "results" / "quadratic_deep" / "momentum" / setting
    assert path.name.startswith("random_seed__7__")
    assert out.splitlines()[-1] == str(path.relative_to(tmp_path))
    measuring, choice, *epochs, _ = out.splitlines()
    assert "kept for later runs" in measuring
    assert "compiled: " in choice
    assert [line.split()[1] for line in epochs] == ["0/1", "1/1"]


def test_quiet_prints_the_files_name_alone(tmp_path: Path, deepobs: Deepobs) -> None:
    outcome = deepobs(*words("P --optimizer sgd --quiet --output-dir elsewhere/out"))
    (path,) = tmp_path.rglob("*.json")
    assert outcome == (0, f"{path.relative_to(tmp_path)}\n", "")
    assert path.is_relative_to(tmp_path / "elsewhere" / "out" / "quadratic_deep" / "sgd")


@pytest.mark.parametrize("output_dir", [".", "out/.."])
def test_results_in_the_current_folder(tmp_path: Path, deepobs: Deepobs, output_dir: str) -> None:
    (tmp_path / "out").mkdir()
    outcome = deepobs(*words(f"P --optimizer sgd --quiet --output-dir {output_dir}"))
    assert outcome.code == 0
    assert len(list((tmp_path / "quadratic_deep" / "sgd").rglob("*.json"))) == 1


@pytest.mark.parametrize(
    ("options", "optimizer", "hyperparams"),
    [
        ("--optimizer sgd", "sgd", {}),
        ("--optimizer adam --beta1 0.8", "adam", {"beta1": 0.8, "beta2": 0.999, "epsilon": 1e-8}),
        ("--optimizer=nesterov --opt.momentum=0.5", "nesterov", {"momentum": 0.5}),
        ("--optimizer rmsprop --epsilon 1", "rmsprop", {"alpha": 0.99, "epsilon": 1.0, "momentum": 0.0}),
        (
            "--optimizer adamw --opt.weight_decay 0.1",
            "adamw",
            {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.1},
        ),
        (
            "--optimizer newton_cg --cg_steps 3 --damping 0.1",
            "newton_cg",
            {"cg_steps": 3, "cg_tol": 1e-3, "curvature_batch": None, "damping": 0.1, "damping_factor": 1.5}
            | {"warm_start": 0.95},
        ),
        ("--optimizer sgd_cabs", "sgd_cabs", {"bn": None, "micro_batches": 1}),
        ("--optimizer sgd_cabs --bn frozen", "sgd_cabs", {"bn": "frozen", "micro_batches": 1}),
        ("--optimizer torch.optim.SGD", "SGD", {}),
        ("--optimizer torch.optim.SGD --momentum 0.9 --nesterov true", "SGD", {"momentum": 0.9, "nesterov": True}),
        ("--optimizer torch.optim.SGD --nesterov false", "SGD", {"nesterov": False}),
        ("--optimizer torch.optim.SGD --nesterov False", "SGD", {"nesterov": False}),
        ("--optimizer torch.optim.SGD --momentum 0.9 --nesterov 1", "SGD", {"momentum": 0.9, "nesterov": True}),
        ("--optimizer torch.optim.SGD --foreach none", "SGD", {}),
        ("--optimizer torch.optim.Adam --betas 0.8,0.9", "Adam", {"betas": [0.8, 0.9]}),
        ("--optimizer torch.optim.Adam --betas (0.8,0.9) --eps 1e-6", "Adam", {"betas": [0.8, 0.9], "eps": 1e-6}),
        ("--optimizer torch.optim.AdamW --opt.weight_decay 0.1", "AdamW", {"weight_decay": 0.1}),
        ("--optimizer torch.optim.LBFGS --max_iter 2", "LBFGS", {"max_iter": 2}),
        ("--optimizer my_module.MyOptimizer --momentum 0.9", "my_module.MyOptimizer", {"momentum": 0.9}),
        ("--optimizer my_module.Demanding --strength 0.5", "my_module.Demanding", {"strength": 0.5}),
        ("--optimizer my_module.Choosy --choice best", "my_module.Choosy", {"choice": "best"}),
        ("--optimizer my_module.Choosy", "my_module.Choosy", {"choice": None}),
    ],
)
def test_hyperparameters(
    tmp_path: Path, deepobs: Deepobs, my_module: None, options: str, optimizer: str, hyperparams: dict[str, Any]
) -> None:
    outcome = deepobs(*words(f"P {options} --quiet"))
    assert outcome.code == 0, outcome.err
    record = only_record(tmp_path)
    assert (record.optimizer, record.weight_decay) == (optimizer, None)
    defaults = {name: value for name, value in DEFAULTS.get(optimizer, {}).items() if name not in hyperparams}
    # as JSON, where true is not 1
    assert json.dumps(record.hyperparams, sort_keys=True) == json.dumps(hyperparams | defaults, sort_keys=True)
    assert record.test_losses[1] < record.test_losses[0]


def test_a_value_that_json_lacks_does_not_cost_the_run(tmp_path: Path, deepobs: Deepobs, my_module: None) -> None:
    outcome = deepobs(*words("P --optimizer my_module.Choosy --choice {1,2} --quiet"))
    assert outcome.code == 0
    assert only_record(tmp_path).status == "finished"


@pytest.mark.parametrize(
    "command",
    [
        "run --optimizer sgd --lr 1e-2 --epochs 3 --lr-sched-factors 0.1 0.01 --lr-sched-epochs 1 2 quadratic_deep",
        "run quadratic_deep --optimizer sgd --lr 1e-2 --epochs 3 --lr-sched-epochs=1,2 --lr-sched-factors 0.1,0.01",
    ],
)
def test_schedule(tmp_path: Path, deepobs: Deepobs, command: str) -> None:
    assert deepobs(*words(command)).code == 0
    record = only_record(tmp_path)
    assert (record.lr_sched_epochs, record.lr_sched_factors) == ([1, 2], [0.1, 0.01])
    assert records.setting_name(record).endswith("lr_schedule__0_1.e-02_1_1.e-03_2_1.e-04__protocol__default")


def test_the_data_folder_of_the_environment(deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPOBS_DATA", __file__)
    outcome = deepobs("run", "mnist_logreg", "--optimizer", "sgd", "--lr", "1")
    assert outcome.code == 2
    assert f"{__file__} is no folder" in outcome.err


def test_stand_in_is_said_and_marked(tmp_path: Path, deepobs: Deepobs) -> None:
    command = "run mnist_logreg --optimizer sgd --lr 0.1 --epochs 1 --batch-size 5000 --data synthetic"
    code, out, _ = deepobs(*command.split())
    assert code == 0
    assert "On the synthetic stand-in: these numbers are no result." in out.splitlines()
    record = only_record(tmp_path)
    assert record.synthetic
    assert record.path is not None
    assert record.path.parent.name.endswith("__protocol__default__data__synthetic")


@pytest.mark.parametrize("options", ["", "--on-divergence continue"])
def test_divergence_is_said_and_kept(tmp_path: Path, deepobs: Deepobs, options: str) -> None:
    code, out, _ = deepobs(*words(f"P --optimizer sgd --lr 1e30 --epochs 2 {options}"))
    assert code == 0
    assert "Diverged in epoch 1: the objective was not finite." in out.splitlines()
    record = only_record(tmp_path)
    assert (record.status, len(record.test_losses), len(record.train_losses)) == ("diverged", 3, 3)


def _hear_interrupts() -> None:
    """A shell lets what it runs in the background ignore SIGINT, and so would everything started from there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.large  # SIGTERM to a process with workers is in `test_cli_streamed.py`, both signals in `test_signals.py`
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_keeps_what_was_done(tmp_path: Path, number: signal.Signals) -> None:
    options = "--optimizer sgd --lr 1e-5 --epochs 100000 --compile off"
    command = [*MAIN, "run", "two_d_beale", *words(options)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_hear_interrupts,
    )
    assert process.stdout is not None
    try:
        while "epoch 1/" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.startswith("Run interrupted after ")
    assert list(tmp_path.rglob("*.json")) == []
    assert not (tmp_path / "results").exists()
    (path,) = (tmp_path / "results.state").rglob("*.json.partial")
    record = records.read(path)
    assert (record.status, record.num_epochs) == ("interrupted", 100000)
    assert 2 <= len(record.test_losses) < 100000
    assert str(path.relative_to(tmp_path)) in err
