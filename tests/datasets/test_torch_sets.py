"""Data sets of torch and of the like as arrays in memory."""

from __future__ import annotations

import os
import random as python_random
from collections import UserDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from deepobs_func import datasets, random
from deepobs_func.datasets import items, torch_sets
from deepobs_func.datasets.loading import load, stream
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.runner.digest import digest

X, Y = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4


class Rows(Dataset[Any]):
    """Items of any kind."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (TensorDataset(X, Y), {}),
        ((X, Y), {}),
        (Rows([(x.tolist(), int(y)) for x, y in zip(X, Y, strict=True)]), {}),
        (
            Rows([{"image": x.numpy(), "label": int(y)} for x, y in zip(X, Y, strict=True)]),
            {"columns": ("image", "label")},
        ),
    ],
)
def test_items_become_arrays(data: Any, options: dict[str, Any]) -> None:
    spec = datasets.from_torch("mine", data, data, **options)
    assert (spec.shape, spec.num_classes, spec.train_size) == ((3,), 4, 8)
    loaded = load(spec, "/nowhere")
    torch.testing.assert_close(loaded.test.x, X)
    assert torch.equal(loaded.train.y, Y)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            Rows([(np.zeros(3), 0), (np.zeros(4), 1)]),
            r"inputs of one shape in train, found \(3,\) at item 0 and \(4,\)",
        ),
        (Rows([{"image": 1, "label": 2}]), r"entries \['image', 'label'\]; name those of x and y by columns="),
        (Rows([]), "expected items in train, found none"),
        (Rows([3]), r"expected items \(x, y\) in train, found int at 0"),
        (Stream(), "Read a stream into arrays first"),
    ],
)
def test_data_without_fixed_shapes_are_refused(data: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        datasets.from_torch("mine", data, data)


class Columns:
    """What is used of a Hugging Face `datasets.Dataset`: a length, items by number and by several numbers, as dicts."""

    def __init__(self, **columns: Any) -> None:
        self.columns, self.asked = columns, list[list[int]]()

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: list[int]) -> list[dict[str, Any]]:
        self.asked.append(rows)
        return [{name: column[row] for name, column in self.columns.items()} for row in rows]


def words(**changes: Any) -> Columns:
    ids = [[1 + n % 3, 2, 0] for n in range(8)]
    columns = {"input_ids": ids, "attention_mask": [[1, 1, 0]] * 8, "labels": [[n % 3, 1, -100] for n in range(8)]}
    return Columns(**(columns | changes))


def test_columns_of_hugging_face_are_several_inputs_and_ids_that_do_not_count() -> None:
    data = words()
    spec = datasets.from_torch(
        "words", data, data, columns=(["input_ids", "attention_mask"], "labels"), ignore_index=-100
    )
    assert (spec.shape, spec.num_classes) == ({"input_ids": (3,), "attention_mask": (3,)}, 3)
    assert data.asked[-1] == list(range(8))  # all at once
    assert load(spec, "/nowhere").train.y[0].tolist() == [0, 1, -100]
    renamed = datasets.from_torch("words", data, data, columns=({"x": "input_ids"}, "labels"), ignore_index=-100)
    assert renamed.shape == {"x": (3,)}
    with pytest.raises(DataError, match=r"class ids from 0 in train, found -100 to 2.*by ignore_index="):
        datasets.from_torch("words", data, data, columns=("input_ids", "labels"))


def batches(spec: Any, rows: Any, augment: bool = False, epoch: int = 0, workers: int = 0) -> list[Any]:
    rows = torch.as_tensor(rows)
    return list(stream(spec, "/nowhere", "train", rows, random.key(epoch), augment=augment, workers=workers))


def test_streamed_items_are_those_of_memory() -> None:
    rows = [[5, 1, 1], [0, 7, 2]]
    for data, options in (
        (TensorDataset(X, Y), {}),
        ((X.numpy(), Y.numpy()), {}),
        (words(), {"columns": ("input_ids", "labels")}),
    ):
        made = [
            datasets.from_torch("mine", data, data, stream=how, classes=4, ignore_index=-100, **options)
            for how in (False, True)
        ]
        held = load(made[0], "/nowhere").train
        assert (made[1].streamed, made[1].shape, made[1].train_size) == (True, made[0].shape, 8)
        for chosen, (x, y) in zip(rows, batches(made[1], rows), strict=True):
            assert torch.equal(x, held.x[chosen])
            assert torch.equal(y, held.y[chosen])
        for found, held_one in zip(
            made[1].function("fake")(made[1], random.key(0), 2, torch.float32), held, strict=True
        ):
            assert (found.shape[1:], found.dtype) == (held_one.shape[1:], held_one.dtype)


def test_what_does_not_fit_into_memory_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (TensorDataset(X, Y), (X, Y)):
        assert not datasets.from_torch("mine", given, given).streamed
    monkeypatch.setattr(torch_sets, "available_bytes", lambda device: 4 * 300)  # a quarter, of 2 x 8 x (12 + 8) bytes
    for given in (TensorDataset(X, Y), (X, Y)):
        found = datasets.from_torch("mine", given, given)
        assert found.streamed
        assert digest(found) == digest(datasets.from_torch("mine", given, given, stream=True))


class Noisy(Rows):
    """Items with noise of one of the generators."""

    def __init__(self, draw: Any) -> None:
        super().__init__([(x, y) for x, y in zip(X, Y, strict=True)])
        self.draw = draw

    def __getitem__(self, index: int) -> Any:
        x, y = self.items[index]
        return x + self.draw(), y


DRAWS = {
    "torch": lambda: torch.rand(()),
    "NumPy": lambda: float(np.random.rand()),
    "Python": lambda: python_random.random(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_items_draw_follows_from_the_epoch_and_their_number(name: str) -> None:
    data = Noisy(DRAWS[name])
    with pytest.raises(ConfigError, match=r"items of train are random. Say by stream="):
        datasets.from_torch("mine", data, data)
    spec, before = datasets.from_torch("mine", data, data, stream=True), torch.get_rng_state()
    first, again, other = (batches(spec, [[3, 4], [0, 3]], augment=True, epoch=epoch) for epoch in (1, 1, 2))
    assert torch.equal(torch.stack([x for x, _ in first]), torch.stack([x for x, _ in again]))
    assert torch.equal(first[0][0][0], first[1][0][1])  # item 3, in either batch
    assert not torch.equal(first[0][0], other[0][0])
    test = [batches(spec, [[3]], epoch=epoch)[0][0] for epoch in (1, 2)]
    assert torch.equal(*test)
    held = [load(datasets.from_torch("mine", data, data, stream=False), "/nowhere").train.x for _ in range(2)]
    assert torch.equal(*held)
    assert torch.equal(held[0][3], test[0][0])
    assert torch.equal(torch.get_rng_state(), before)


class Rare(Noisy):
    """Items of which one of many draws, and shows it one time in ten."""

    def __getitem__(self, index: int) -> Any:
        x, y = self.items[index]
        return (x * float(torch.rand(()) > 0.1) if index == 1 else x), y


def test_draws_are_found_by_the_generators_and_not_by_their_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_sets, "LOOKED_AT", 2)  # the first item and the last
    data = Rare(None)
    with pytest.raises(ConfigError, match=r"items of train are random.*Item 1 drew"):
        datasets.from_torch("mine", data, data)
    monkeypatch.setattr(torch_sets, "available_bytes", lambda device: 0)
    with pytest.raises(ConfigError, match=r"items of train are random.*Item 1 drew"):
        batches(datasets.from_torch("mine", data, data), [[0, 1]], workers=1)


def test_what_is_held_does_not_depend_on_the_global_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "BLOCK", 3)
    held = []
    for number in (1, 2):
        torch.manual_seed(number)
        data = Noisy(DRAWS["torch"])
        held.append(load(datasets.from_torch("mine", data, data, stream=False), "/nowhere").train.x)
    assert torch.equal(*held)


def test_items_are_held_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "BLOCK", 3)
    data = words()
    columns = (["input_ids", "attention_mask"], "labels")
    spec = datasets.from_torch("words", data, data, columns=columns, ignore_index=-100)
    assert max(map(len, data.asked)) == 3
    assert load(spec, "/nowhere").train.x["input_ids"].tolist() == data.columns["input_ids"]
    with pytest.raises(DataError, match=r"found \(3,\) at item 0 and \(4,\) at item 3"):
        datasets.from_torch("mine", Rows([(np.zeros(3 + (n == 3)), 0) for n in range(6)]), (X, Y), stream=False)


@pytest.mark.parametrize(
    "columns", [("input_ids", "attention_mask", "labels"), ("x",), (["x"], ["y"]), "xy", ([], "y")]
)
def test_columns_are_two_entries(columns: Any) -> None:
    data = words()
    with pytest.raises(ConfigError, match=r"two entries, that of x and that of y"):
        datasets.from_torch("words", data, data, columns=columns)
    assert not data.asked


def test_pairs_are_as_arrays_take_them() -> None:
    with pytest.raises(DataError, match=r"as many inputs as targets in train, found \[8\] and 7"):
        datasets.from_torch("mine", (X, Y[:7]), (X, Y), stream=True)
    with pytest.raises(DataError, match="the targets of train are None"):
        datasets.from_torch("mine", (X, None), (X, None), stream=True)
    examples = (tuple(X), Y)
    assert datasets.from_torch("mine", examples, examples, stream=True).shape == (3,)


@pytest.mark.parametrize("stream", [False, True, None])
def test_class_ids_are_below_classes(stream: bool | None) -> None:
    pairs = TensorDataset(X, Y), (X, Y)
    for data in pairs:
        with pytest.raises(DataError, match="class ids from 0 to 2 in train, found 0 to 3"):
            batches(datasets.from_torch("mine", data, data, classes=3, stream=stream), [list(range(8))])
        assert datasets.from_torch("mine", data, data, classes=9, stream=stream).num_classes == 9


def test_inputs_may_be_any_mapping_in_any_order() -> None:
    one = [(UserDict(a=x, b=x), int(y)) for x, y in zip(X, Y, strict=True)]
    other = [(UserDict(b=x, a=x), int(y)) for x, y in zip(X, Y, strict=True)]
    for how in (False, True):
        spec = datasets.from_torch("mine", Rows(one), Rows(other[:4] + one[4:]), stream=how)
        assert spec.shape == {"a": (3,), "b": (3,)}
        x, _ = next(iter(batches_of_test(spec)))
        assert torch.equal(x["a"], X[:2])


def batches_of_test(spec: Any) -> Any:
    if not spec.streamed:
        held = load(spec, "/nowhere").test
        return [({name: each[:2] for name, each in held.x.items()}, held.y[:2])]
    return stream(spec, "/nowhere", "test", torch.tensor([[0, 1]]), random.key(0), augment=False, workers=0)


class Fatal(Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 1:
            os._exit(1)
        return super().__getitem__(index)


def test_workers_read_the_same_items() -> None:
    spec = datasets.from_torch("mine", Noisy(DRAWS["torch"]), Noisy(DRAWS["torch"]), stream=True)
    here, there = (batches(spec, [[3, 4], [0, 3], [1, 1]], augment=True, workers=workers) for workers in (0, 2))
    assert all(torch.equal(one[0], other[0]) for one, other in zip(here, there, strict=True))


def test_generators_of_their_own_are_refused() -> None:
    own = np.random.default_rng(0)
    data = Noisy(lambda: float(own.random()))
    with pytest.raises(ConfigError, match="differ from reading to reading, and not by the global generators"):
        datasets.from_torch("mine", data, data, stream=True)


def late(wrong: Any) -> Rows:
    """Items of which one that is not looked at beforehand is wrong."""
    items: list[Any] = [(np.zeros(3), 0)] * 100
    items[1] = wrong
    return Rows(items)


class Broken(Rows):
    def __getitem__(self, index: int) -> Any:
        if index == 1:
            raise OSError("no such picture")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (late((np.zeros(4), 0)), r"inputs of one shape in train, found \(3,\) at item 0 and \(4,\) at item 1"),
        (late((np.zeros(3), 7)), "class ids from 0 to 2 in train, found 0 to 7"),
        (late((np.full(3, np.nan), 0)), "to be NaN.*the first of them number 1"),
        (
            Broken([(np.zeros(3), 0)] * 100),
            r"reading item 1 of train raised OSError: no such picture .*test_torch_sets",
        ),
    ],
)
def test_what_is_found_while_it_is_read_names_the_item(data: Any, words: str, workers: int) -> None:
    spec = datasets.from_torch("mine", data, data, stream=True, classes=3)
    with pytest.raises(DataError, match=words):
        batches(spec, [[0, 2, 1], [2, 3, 4]], workers=workers)


def test_a_worker_that_is_killed_is_said() -> None:
    data = Fatal([(np.zeros(3), 0)] * 100)
    with pytest.raises(DataError, match="A process that read items ahead has ended"):
        batches(datasets.from_torch("mine", data, data, stream=True), [[1]], workers=1)


def test_whole_batches_of_another_shape_are_refused() -> None:
    spec = datasets.from_torch("mine", late((np.zeros(4), 0)), late((np.zeros(4), 0)), stream=True)
    with pytest.raises(DataError, match=r"those of the first item of train; found in train.*\(3,\) float32 and \(4,\)"):
        batches(spec, [[1]])


@pytest.mark.parametrize("classes", [0, True, 2.0])
def test_classes_are_counted(classes: Any) -> None:
    with pytest.raises(ConfigError, match="classes= is a whole number"):
        datasets.from_torch("mine", TensorDataset(X, Y), TensorDataset(X, Y), stream=True, classes=classes)


def test_a_digest_of_hugging_face_is_its_fingerprint() -> None:
    one, same, other = words(), words(), words()
    for data, fingerprint in ((one, "a"), (same, "a"), (other, "b")):
        data._fingerprint = fingerprint
    assert digest(one) == digest(same) != digest(other)
