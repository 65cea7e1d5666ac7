"""Archives: unpacked whole or not at all, inside their folder, and never over anything."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func.datasets.archive import unpack
from deepobs_func.errors import DataError
from tests.datasets.cifar_files import tar
from tests.datasets.idx_files import snapshot

FILES = {"set/one": b"1" * 1000, "set/two": b"2"}


def write(folder: Path, content: bytes) -> Path:
    path = folder / "set.tar.gz"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("prefix", ["", "./"])
def test_the_named_files_and_no_others(tmp_path: Path, prefix: str) -> None:
    archive = write(tmp_path, tar({f"{prefix}{path}": content for path, content in {**FILES, "set/x": b""}.items()}))
    assert unpack(archive, "set", ["one", "two"]) == tmp_path / "set"
    assert {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()} == {"one": b"1" * 1000, "two": b"2"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set", "set.tar.gz"]


@pytest.mark.parametrize("path", ["../evil", "set/../../evil", "/tmp/deepobs-evil", "set/link/evil"])
def test_no_member_leaves_the_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "inner").mkdir()
    archive = write(tmp_path / "inner", tar({path: b"evil", **FILES}, {"set/link": ".."}))
    unpack(archive, "set", ["one", "two"])
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {
        "inner/set.tar.gz",
        "inner/set/one",
        "inner/set/two",
    }
    assert not Path("/tmp/deepobs-evil").exists()


def test_a_link_is_not_taken_for_a_file(tmp_path: Path) -> None:
    archive = write(tmp_path, tar({"set/two": b"2"}, {"set/one": "/etc/hostname"}))
    with pytest.raises(DataError, match="expected set/one in it"):
        unpack(archive, "set", ["one", "two"])
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


@given(data=st.data())
def test_every_cut_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content, folder = tar(FILES), tmp_path_factory.mktemp("archive")
    # The last bytes are the padding of the last tape block and gzip's checksum; without them all files are there.
    archive = write(folder, content[: data.draw(st.integers(0, len(content) - 40))])
    with pytest.raises(DataError, match=str(archive)):
        unpack(archive, "set", ["one", "two"])
    assert [path.name for path in folder.iterdir()] == ["set.tar.gz"]


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a whole \.tar\.gz archive"):
        unpack(write(tmp_path, b"<html>404</html>"), "set", ["one"])


def test_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "one").write_bytes(b"mine")
    archive = write(tmp_path, tar(FILES))
    before = snapshot(tmp_path)
    unpack(archive, "set", ["one", "two"])
    assert snapshot(tmp_path) == before


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write(tmp_path, tar(FILES))

    def refuse(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(DataError, match="Unpack it by hand"):
        unpack(archive, "set", ["one", "two"])
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]
