"""The published runs as files, from an archive like the published one."""

from __future__ import annotations

import io
import socket
import tarfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepobs_func import cli
from deepobs_func.compat import baselines
from deepobs_func.errors import DataError

NAME = (
    "quadratic_deep/AdamOptimizer/num_epochs__1__batch_size__128__lr__1.e-02/random_seed__42__2019-01-01-00-00-00.json"
)


def archive(folder: Path, *names: str) -> str:
    path = folder / "v1.1.tar.gz"
    with tarfile.open(path, "w:gz") as content:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 2
            content.addfile(member, io.BytesIO(b"{}"))
    return path.as_uri()


def test_records_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = "DeepOBS_Baselines-1.1"
    url = archive(
        tmp_path, f"{top}/{NAME}", f"{top}/convergence_performance.json", f"{top}/README.md", f"{top}/../x.json"
    )
    target = tmp_path / "baselines"
    assert baselines.fetch_baselines(target, url) == 1
    assert sorted(path.name for path in target.rglob("*") if path.is_file()) == [
        "convergence_performance.json",
        NAME.rpartition("/")[2],
    ]
    assert (target / NAME).read_text() == "{}"
    assert baselines.fetch_baselines(target, url) == 0

    monkeypatch.setattr(baselines, "fetch_baselines", lambda folder: 3)
    assert CliRunner().invoke(cli.cli, ["data", "baselines", "there"]).output == "there: 3 new runs.\n"


def test_what_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="compare published"):
        baselines.fetch_baselines(tmp_path / "a", (tmp_path / "none.tar.gz").as_uri())
    with pytest.raises(DataError, match="no record"):
        baselines.fetch_baselines(tmp_path / "b", archive(tmp_path, "top/README.md"))


@pytest.mark.parametrize("limit", ["_MOST", "_MOST_OF_A_RECORD"])
def test_what_is_too_large_is_refused(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, limit, 1)
    with pytest.raises(DataError, match="more than 1 bytes"):
        baselines.fetch_baselines(tmp_path / "a", archive(tmp_path, f"top/{NAME}"))
    assert not [*(tmp_path / "a").iterdir()]


def test_a_silent_address_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(DataError, match="timed out"):
        baselines.fetch_baselines(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}/v1.1.tar.gz")


def test_the_port_s_names_of_commands() -> None:
    commands = cli.cli.commands
    assert commands["benchmark"] is commands["sweep"]
    assert commands["analyze"] is commands["report"]
