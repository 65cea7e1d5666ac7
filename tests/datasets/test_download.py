"""Downloads: which files, from which mirror, with which checksum. torchvision's `download_url` is replaced."""

from pathlib import Path

import pytest

from deepobs_func import datasets
from deepobs_func.datasets import download
from deepobs_func.datasets.torchvision_parts import torchvision_datasets

KINDS = {"mnist": "MNIST", "fmnist": "FashionMNIST"}


class FakeNetwork:
    """Stands for `download_url`: remembers its calls and fails at the mirrors that are down."""

    def __init__(self, down: dict[str, Exception]) -> None:
        self.down, self.calls = down, []

    def __call__(self, url: str, root: str, filename: str, md5: str) -> None:
        self.calls.append((url, filename, md5))
        for mirror, error in self.down.items():
            if url.startswith(mirror):
                raise error
        (Path(root) / filename).write_text(url)


@pytest.fixture
def mirrors(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    addresses = ["https://first.example/", "https://second.example/"]
    for kind in KINDS.values():
        monkeypatch.setattr(getattr(torchvision_datasets(), kind), "mirrors", addresses)
    return addresses


def network(monkeypatch: pytest.MonkeyPatch, down: dict[str, Exception] | None = None) -> FakeNetwork:
    fake = FakeNetwork(down or {})
    monkeypatch.setattr(torchvision_datasets().utils, "download_url", fake)
    return fake


@pytest.mark.parametrize("name", list(KINDS))
def test_all_files_with_their_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors: list[str], name: str
) -> None:
    fake = network(monkeypatch)
    spec = datasets.spec(name)
    download.idx(spec, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{file}.gz" for file in spec.files)
    resources = getattr(torchvision_datasets(), KINDS[name]).resources
    assert [(filename, md5) for _, filename, md5 in fake.calls] == resources
    assert all(len(md5) == 32 for _, md5 in resources)


def test_the_two_sets_have_different_files() -> None:
    mnist, fmnist = (dict(getattr(torchvision_datasets(), kind).resources) for kind in KINDS.values())
    assert mnist.keys() == fmnist.keys()
    assert not set(mnist.values()) & set(fmnist.values())


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("File not found or corrupted.")])
def test_mirrors_are_tried_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors: list[str], error: Exception
) -> None:
    fake = network(monkeypatch, {mirrors[0]: error})
    spec = datasets.spec("mnist")
    download.idx(spec, tmp_path)
    expected = [mirror + f"{name}.gz" for name in spec.files for mirror in mirrors]
    assert sorted(url for url, _, _ in fake.calls) == sorted(expected)
    assert [url.startswith(mirrors[0]) for url, _, _ in fake.calls] == [True, False] * 4
    assert all(path.read_text().startswith(mirrors[1]) for path in tmp_path.iterdir())


def test_no_mirror_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors: list[str]) -> None:
    errors = dict(zip(mirrors, [OSError("first is down"), OSError("second is down")], strict=True))
    fake = network(monkeypatch, errors)
    with pytest.raises(OSError, match="is down") as caught:
        download.idx(datasets.spec("mnist"), tmp_path)
    assert caught.value in errors.values()
    assert [url.rpartition("/")[0] + "/" for url, _, _ in fake.calls] == mirrors
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_not_taken_for_a_mirror_that_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrors: list[str]
) -> None:
    fake = network(monkeypatch, {mirrors[0]: TypeError("a defect of ours")})
    with pytest.raises(TypeError, match="a defect of ours"):
        download.idx(datasets.spec("mnist"), tmp_path)
    assert len(fake.calls) == 1


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_archive_with_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    fake, spec = network(monkeypatch), datasets.spec(name)
    spec.function("download")(spec, tmp_path)
    kind = getattr(torchvision_datasets(), name.upper())
    assert fake.calls == [(kind.url, kind.filename, kind.tgz_md5)]
    assert [path.name for path in tmp_path.iterdir()] == [kind.filename]
    assert kind.filename in spec.files
