"""`deepobs probe`: what it prints, where it writes, and mistakes in a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from deepobs_func import RunConfig, cli, records, run
from deepobs_func.runner.execution import Execution


def call(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepobs", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


def test_a_run_is_probed_and_plotted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    made = RunConfig("quadratic_deep", "sgd", 0.01, epochs=2, checkpoint_every=1, keep=9)
    path = str(run(made, execution=Execution()).record.path)
    assert call("probe", path, "--quantities", "hess_max_ev,spectrum", "--at", "0,1") == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["hess_max_ev: 53.129 at step 7", path]
    assert call("plot", "densities", "results", "--out", "densities.svg") == 0
    assert Path("densities.svg").is_file()
    capsys.readouterr()
    given = ("--at", "last", "--over", "test", "--batches", "2", "--output", "copy.json", "--json")
    assert call("probe", path, "--quantities", "critical_batch_size", *given) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == "copy.json"
    assert found["probed"]["quantities"]["critical_batch_size"]["steps"] == [14]
    assert len(records.read(path).extra["probed"]) == 1


def test_what_was_just_probed_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not what the record had before, of the same measurement at a later step."""
    monkeypatch.chdir(tmp_path)
    made = RunConfig("quadratic_deep", "sgd", 0.01, epochs=1, checkpoint_every=1, keep=9)
    path = str(run(made, execution=Execution()).record.path)
    assert call("probe", path, "--quantities", "grad_norm,distance", "--at", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert call("probe", path, "--quantities", "grad_norm", "--at", "0", "--json") == 0
    found = json.loads(capsys.readouterr().out)["probed"]["quantities"]
    assert {name: column["steps"] for name, column in found.items()} == {"grad_norm": [0]}
    assert call("probe", path, "--quantities", "grad_norm", "--at", "0") == 0
    value = found["grad_norm"]["values"][0]
    assert capsys.readouterr().out.splitlines() == [f"grad_norm: {value:.6g} at step 0", path]
    before = records.read(path).extra["probed"]
    assert before[0]["quantities"]["grad_norm"]["steps"] == [0, 7]
    for nothing in (",", ""):
        assert call("probe", path, "--quantities", "grad_norm", "--at", nothing) == 2
        assert "--at: there is no epoch. Give all, last" in " ".join(capsys.readouterr().err.split())
    assert records.read(path).extra["probed"] == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("no.json", "--quantities", "grad_norm"), "no.json is no readable record"),
        (("no.json", "--quantities", "grad_norm", "--at", "first"), "--at first: it must be all, last, or epochs"),
        (("no.safetensors", "--quantities", "grad_norm"), "no.safetensors is no readable checkpoint"),
    ],
)
def test_mistakes(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("probe", *words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
