"""What there is, on the command line: listings, descriptions, optimizers, data, and the state of the machine."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepobs_func import cli, datasets, optimizers, problems
from deepobs_func.datasets import DatasetSpec
from deepobs_func.errors import DataError
from deepobs_func.runner import checkup
from tests.datasets.idx_files import tiny_spec, write_files
from tests.datasets.imagenet_files import tiny_spec as tiny_imagenet
from tests.datasets.imagenet_tars import write_archives

DEVICES = {"compiler": "g++", "threads": 2, "cores": 2, "gpus": [], "memory_available": 1e10}


def shown(*args: str, code: int = 0) -> str:
    """What a command prints, on both streams."""
    result = CliRunner().invoke(cli.cli, args)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a small MNIST alone."""
    monkeypatch.setitem(datasets.REGISTRY.own, "mnist", replace(tiny_spec(), digest=""))
    write_files(tmp_path / "mnist", tiny_spec())
    return tmp_path


def test_list_has_sets_and_says_whether_the_data_are_at_hand(data: Path) -> None:
    lines = shown("list", "--set", "small", "--data", str(data)).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["quadratic_deep", "mnist_vae", "fmnist_2c2d", "cifar10_3c3d"]
    assert [" yes " in line for line in lines[1:5]] == [False, True, False, False]
    assert [" generated " in line for line in lines[1:5]] == [True, False, False, False]
    (whole,) = (line for line in shown("list").splitlines() if line.startswith("deepobs "))
    assert whole.endswith("and 22 more")


def test_list_as_json(data: Path) -> None:
    found = json.loads(shown("list", "--json", "--data", str(data)))
    assert [each["name"] for each in found["problems"]] == problems.names()
    assert found["sets"]["deepobs"] == [n for n in problems.REGISTRY.own if n not in found["sets"]["modern"]]
    assert (len(found["sets"]["deepobs"]), len(found["sets"]["modern"])) == (26, 6)
    assert {each["name"]: each["at_hand"] for each in found["data_sets"]}["mnist"] == "yes"
    assert [each["name"] for each in found["optimizers"]] == optimizers.names()
    large = json.loads(shown("list", "--json", "--set", "large"))
    assert [each["name"] for each in large] == ["fmnist_vae", "cifar100_allcnnc", "svhn_wrn164", "tolstoi_char_rnn"]


@pytest.mark.parametrize("name", ["mnist_vae", "two_d_branin", "cifar100_allcnnc"])
def test_describe(name: str, data: Path) -> None:
    found = json.loads(shown("describe", name, "--json", "--data", str(data)))
    problem = problems.get(name)
    assert [each["name"] for each in found["tensors"] if each["trained"]] == list(problem.description.shapes)
    assert found["parameters"] == problems.spec_of(name).parameters
    assert len(found["deviations"]) == len(problem.deviations)
    text = shown("describe", name)
    assert all(each["quirk"] in text and each["default"] in text for each in found["deviations"])
    assert all(each["initial"] in text for each in found["tensors"])


def test_describe_has_initial_distributions_and_published_results() -> None:
    found = json.loads(shown("describe", "fmnist_2c2d", "--json"))
    laws = {each["name"]: (each["initial"], each["output"]) for each in found["tensors"]}
    assert laws["conv1.weight"] == ("truncated normal, std 0.05, cut at 2 std", [32, 28, 28])
    assert laws["dense2.bias"] == ("0.05", [10])
    assert [run["optimizer"] for run in found["published"]["runs"]] == ["sgd", "momentum", "adam"]
    assert 0.9 < found["published"]["runs"][0]["final_mean"] < 1
    assert "Nothing is published." in shown("describe", "mnist_mlp")


def test_one_optimizer() -> None:
    text = shown("optimizers", "newton_cg")
    assert "a whole number from 1" in text
    assert "loguniform 0.001 to 100" in text
    found = json.loads(shown("optimizers", "adamw", "--json"))
    assert found["hyperparameters"]["weight_decay"]["search"] == {"low": 0.005, "high": 1.0, "word": "loguniform"}
    assert [each["name"] for each in json.loads(shown("optimizers", "--json"))] == optimizers.names()


def test_where_data_are(data: Path) -> None:
    assert shown("data", "where", "--data", str(data)) == f"{data}\n"
    assert shown("data", "where", "mnist", "--data", str(data)) == f"{data / 'mnist'}\n"
    assert f"it goes into {data / 'svhn'}" in shown("data", "where", "svhn", "--data", str(data), code=1)
    assert "it is generated" in shown("data", "where", "two_d", "--data", str(data))
    found = json.loads(shown("data", "status", "--json", "--data", str(data)))
    assert {each["name"]: each["state"] for each in found["sets"]}["mnist"] == "yes"
    (data / "mnist" / "t10k-images-idx3-ubyte").unlink()
    assert "part" in shown("data", "status", "mnist", "--data", str(data))
    assert "lacks t10k-images-idx3-ubyte" in shown("data", "download", "mnist", "--data", str(data), code=1)


def test_data_are_verified(data: Path) -> None:
    assert (
        shown("data", "verify", "--data", str(data))
        == "mnist: 6 + 4 read\ndigits: 1,437 + 360 read, equal to the published data\n"
    )
    assert "deepobs data download svhn" in shown("data", "verify", "mnist", "svhn", "--data", str(data), code=1)
    path = data / "mnist" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert str(path) in shown("data", "verify", "--data", str(data), code=1)


def test_one_download_that_fails_does_not_stop_the_others(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(spec: DatasetSpec, folder: Path) -> None:
        write_files(folder, tiny_spec("fmnist"))

    def fail(spec: DatasetSpec, folder: Path) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("deepobs_func.datasets.download.svhn", fail)
    monkeypatch.setattr("deepobs_func.datasets.download.idx", fill)
    text = shown("data", "download", "svhn", "mnist", "fmnist", "two_d", "--data", str(data), code=1)
    assert "no route to host" in text
    assert f"mnist: is there already: {data / 'mnist'}" in text
    assert f"fmnist: fetched: {data / 'fmnist'}" in text
    assert "two_d: is generated" in text
    assert "image-net.org" in shown("data", "download", "imagenet", "--data", str(data), code=1)


def test_imagenet_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.REGISTRY.own, "imagenet", tiny_imagenet())
    command = ("data", "prepare", "imagenet", "--data", str(tmp_path))
    result = CliRunner().invoke(cli.cli, command)
    assert isinstance(result.exception, DataError)
    assert "https://image-net.org" in str(result.exception)
    write_archives(tmp_path / "tars")
    assert "val: 3 images" in shown(*command, "--from", str(tmp_path / "tars"))
    assert f"{tmp_path / 'imagenet'}\n" == shown("data", "where", "imagenet", "--data", str(tmp_path))


def test_doctor_names_versions_data_and_caches(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPOBS_CACHE", str(data / "cache"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(data))
    found = json.loads(shown("doctor", "--json", "--data", str(data)))
    assert found["versions"]["torch"]
    assert found["data"]["sets"]["mnist"] == "yes"
    folders = {name: each["folder"] for name, each in found["caches"].items()}
    assert folders == {"measured executions": str(data / "cache" / "choices"), "compiled code (torch)": str(data)}
    assert found["caches"]["compiled code (torch)"]["bytes"] == sum(p.stat().st_size for p in data.glob("mnist/*"))


SLOW = {
    "no C++ compiler": {"compiler": None},
    "torch has 1 of 2 cores": {"threads": 1},
    "1.0 GB of memory": {"memory_available": 1e9},
}


@pytest.mark.parametrize("what", SLOW)
def test_what_is_slow_is_said_with_its_mend(what: str) -> None:
    found = [note for note in checkup.notes(DEVICES | SLOW[what]) if what in note.what]
    assert [(note.kind, bool(note.why), bool(note.mend)) for note in found] == [("slow", True, True)]
    assert not [note for note in checkup.notes(DEVICES) if what in note.what]


def test_a_package_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: Callable[[str], str | None] = checkup._version
    absent = ("optuna", "scipy")
    monkeypatch.setattr(checkup, "_version", lambda name: None if name in absent else installed(name))
    found = {(note.kind, note.mend) for note in checkup.notes(DEVICES)}
    assert {("broken", "pip install scipy"), ("missing", "pip install 'deepobs-func[tune]'")} <= found
    shown("doctor", code=1)
