"""The character text: ids, split, windows, other texts and everything that is no such text."""

import collections
import gzip
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func import datasets
from deepobs_func.datasets import DatasetSpec, download, stand_in, tolstoi
from deepobs_func.datasets.loading import load
from deepobs_func.datasets.torchvision_parts import torchvision_datasets
from deepobs_func.errors import ConfigError, DataError
from tests.datasets.idx_files import snapshot


def tiny_text(seed: int = 0, size: int = 400) -> str:
    """All 83 symbols, some of them often."""
    generator = np.random.default_rng(seed)
    more = generator.choice(list(tolstoi.SYMBOLS[:20]), size - 83)
    return "".join(generator.permutation(list(tolstoi.SYMBOLS) + list(more)))


def tiny_spec(text: str) -> DatasetSpec:
    cut = math.ceil(0.8 * len(text))
    return replace(datasets.spec("tolstoi"), train_size=cut, test_size=len(text) - cut)


def write(folder: Path, text: str, *, gzipped: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("input.txt.gz" if gzipped else "input.txt")
    path.write_bytes(gzip.compress(text.encode()) if gzipped else text.encode())
    return path


def slow_ids(text: str) -> list[int]:
    """As DeepOBS's preparation script: a stable sort of a counter, which is in the order of first appearance."""
    pairs = sorted(collections.Counter(text).items(), key=lambda pair: -pair[1])
    places = {symbol: place for place, (symbol, _) in enumerate(pairs)}
    return [places[symbol] for symbol in text]


@pytest.mark.parametrize("layout", ["tolstoi", "."])
@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_ids_and_split(tmp_path: Path, seed: int, gzipped: bool, layout: str) -> None:
    text = tiny_text(seed)
    write(tmp_path / layout, text, gzipped=gzipped)
    loaded, ids = load(tiny_spec(text), tmp_path), slow_ids(text)
    for part, expected in ((loaded.train, ids[:320]), (loaded.test, ids[320:])):
        assert part.x.dtype == part.y.dtype == torch.int64
        assert part.x.tolist() == expected[:-1]
        assert part.y.tolist() == expected[1:]


def test_line_ends_stay(tmp_path: Path) -> None:
    text = "\r\n" * 50 + tiny_text()
    write(tmp_path, text)
    x, _ = tolstoi.read(tiny_spec(text), tmp_path, "train")
    assert x[:100].tolist() == slow_ids(text)[:100]
    assert len(set(x[:100].tolist())) == 2


def test_the_expected_symbols() -> None:
    assert len(set(tolstoi.SYMBOLS)) == len(tolstoi.SYMBOLS) == datasets.spec("tolstoi").num_classes
    assert datasets.spec("tolstoi").sequence_length == tolstoi.LENGTH
    assert not datasets.spec("tolstoi").shuffle


@given(length=st.integers(1, 2_000), batch_size=st.integers(1, 12))
def test_windows(length: int, batch_size: int) -> None:
    """The reference's recipe, spelled out for the whole text of `length + 1` characters."""
    ids = torch.arange(length + 1)
    steps = length // (50 * batch_size)
    if steps == 0:
        with pytest.raises(ConfigError, match=f"batch size of {batch_size} leaves no window of 50 symbols"):
            tolstoi.windows(ids[:-1], ids[1:], batch_size)
        return
    x, y = tolstoi.windows(ids[:-1], ids[1:], batch_size)
    assert x.shape == y.shape == (steps * batch_size, 50)
    rows = ids[: steps * batch_size * 50].reshape(batch_size, -1)
    next_rows = ids[1 : steps * batch_size * 50 + 1].reshape(batch_size, -1)
    for k in range(steps):
        assert torch.equal(x[k * batch_size : (k + 1) * batch_size], rows[:, 50 * k : 50 * (k + 1)])
        assert torch.equal(y[k * batch_size : (k + 1) * batch_size], next_rows[:, 50 * k : 50 * (k + 1)])


def test_windows_of_the_reference() -> None:
    spec = datasets.spec("tolstoi")
    for size, steps in ((spec.train_size, 1045), (spec.test_size, 261)):
        x = torch.zeros(size - 1, dtype=torch.int64)
        assert len(tolstoi.windows(x, x, 50)[0]) == steps * 50


def test_the_largest_batch_size_is_named() -> None:
    x = torch.zeros(399, dtype=torch.int64)
    with pytest.raises(ConfigError, match="7 is the largest"):
        tolstoi.windows(x, x, 8)
    assert tolstoi.windows(x, x, 7)[0].shape == (7, 50)


def test_with_vocabulary(tmp_path: Path) -> None:
    text = "abcab c" * 40
    write(tmp_path, text)
    spec = tolstoi.with_vocabulary(datasets.spec("tolstoi"), "cba xyz")
    loaded = load(spec, tmp_path)
    assert spec.num_classes == 7
    assert loaded.train.x[:8].tolist() == ["cba xyz".index(symbol) for symbol in text[:8]]
    assert len(loaded.train.x) + len(loaded.test.x) == len(text) - 2


@pytest.mark.parametrize("vocabulary", ["aab", ["ab", "c"], ["", "a"]])
def test_bad_vocabulary(vocabulary: str | list[str]) -> None:
    with pytest.raises(ConfigError, match="different single characters"):
        tolstoi.with_vocabulary(datasets.spec("tolstoi"), vocabulary)


def assert_refused(spec: DatasetSpec, folder: Path, fragments: list[str]) -> None:
    before = snapshot(folder)
    with pytest.raises(DataError) as caught:
        spec.function("reader")(spec, folder, "train")
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert snapshot(folder) == before


def test_other_symbols_are_named(tmp_path: Path) -> None:
    text = tiny_text()
    path = write(tmp_path, text.replace("\r", "\n").replace("ä", "ß").replace("é", "€"))
    assert_refused(
        tiny_spec(text),
        tmp_path,
        [str(path), "expected 83", "found 82", r"'\r', 'ä', 'é'", "'ß', '€'", "vocabulary="],
    )


def test_too_many_symbols(tmp_path: Path) -> None:
    text = tiny_text() + "".join(chr(0x4E00 + i) for i in range(30))
    write(tmp_path, text)
    assert_refused(tiny_spec(text), tmp_path, ["found 113", "missing: none", "and 10 more"])


def test_text_of_another_length(tmp_path: Path) -> None:
    text = tiny_text()
    path = write(tmp_path, text + "\n")
    assert_refused(tiny_spec(text), tmp_path, [str(path), "expected 400 characters", "found 401", "vocabulary="])


def test_symbols_beyond_the_vocabulary(tmp_path: Path) -> None:
    path = write(tmp_path, "abcd" * 20)
    spec = tolstoi.with_vocabulary(datasets.spec("tolstoi"), "ab")
    assert_refused(spec, tmp_path, [str(path), "2 symbols of the vocabulary", "'c', 'd'"])


def test_text_of_one_character(tmp_path: Path) -> None:
    write(tmp_path, "a")
    assert_refused(tolstoi.with_vocabulary(datasets.spec("tolstoi"), "a"), tmp_path, ["at least two characters"])


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("input.txt", b"War \xff Peace", "can't decode"),
        ("input.txt.gz", gzip.compress(b"War and Peace" * 9, mtime=0)[:-12], "end-of-stream"),
        ("input.txt.gz", b"<html>404</html>", "Not a gzipped file"),
    ],
)
def test_no_text(tmp_path: Path, name: str, content: bytes, found: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert_refused(datasets.spec("tolstoi"), tmp_path, [str(tmp_path / name), "expected a text in UTF-8", found])


def test_empty_folder(tmp_path: Path) -> None:
    assert_refused(datasets.spec("tolstoi"), tmp_path, ["input.txt", "input.txt.gz"])


LINES = [f"line {i}\r".encode() for i in range(1, 65_100)]


class TestDownload:
    @pytest.fixture
    def whole(self, monkeypatch: pytest.MonkeyPatch) -> bytes:
        content = b"\n".join([*LINES, b""])

        def fetch(url: str, root: str, filename: str, md5: str | None) -> None:
            (Path(root) / filename).write_bytes(content)

        monkeypatch.setattr(torchvision_datasets().utils, "download_url", fetch)
        return content

    def test_cuts_as_the_script_does(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bytes) -> None:
        """What remains, by the lines' own numbers: the second and third round count what is left."""
        kept = [*range(30, 34), *range(805, 64_650), *range(65_008, 65_100)]
        text = b"".join(LINES[i - 1] + b"\n" for i in kept)
        monkeypatch.setattr(download, "_TOLSTOI_MD5", download.hashlib.md5(text, usedforsecurity=False).hexdigest())
        download.tolstoi(datasets.spec("tolstoi"), tmp_path)
        assert snapshot(tmp_path) == {"input.txt": text}

    def test_another_text_is_refused(self, tmp_path: Path, whole: bytes) -> None:
        with pytest.raises(DataError, match="no longer has the text"):
            load(datasets.spec("tolstoi"), tmp_path)
        assert snapshot(tmp_path) == {}


class TestStandIn:
    def test_shapes_and_symbols(self) -> None:
        spec = datasets.spec("tolstoi")
        for split, size in (("train", spec.train_size), ("test", spec.test_size)):
            x, y = stand_in.text(spec, split)
            assert x.shape == y.shape == (size - 1,)
            assert x.dtype == y.dtype == np.int64
            assert set(x.tolist()) == set(range(83))
            np.testing.assert_array_equal(x[1:], y[:-1])

    def test_same_text_each_time_and_another_one_in_the_test(self) -> None:
        spec = replace(datasets.spec("tolstoi"), train_size=3_000, test_size=3_000)
        first, again, test = stand_in.text(spec, "train"), stand_in.text(spec, "train"), stand_in.text(spec, "test")
        np.testing.assert_array_equal(first[0], again[0])
        assert (first[0] != test[0]).mean() > 0.5

    def test_two_symbols_predict_more_than_one_and_one_more_than_none(self) -> None:
        """Accuracies on the test text of counts taken from the training text."""
        spec = datasets.spec("tolstoi")
        (x, y), (test_x, test_y) = (stand_in.text(spec, split) for split in ("train", "test"))
        single, double = np.zeros((83, 83)), np.zeros((83 * 83, 83))
        np.add.at(single, (x, y), 1)
        np.add.at(double, (x[:-1] * 83 + x[1:], y[1:]), 1)
        none = np.mean(test_y == np.bincount(y).argmax())
        one = np.mean(single.argmax(1)[test_x] == test_y)
        two = np.mean(double.argmax(1)[test_x[:-1] * 83 + test_x[1:]] == test_y[1:])
        assert 0.01 < none < 0.15 < one < 0.45 < 0.55 < two < 0.65
