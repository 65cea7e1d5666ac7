"""Orders of the data under both protocols."""

from __future__ import annotations

import dataclasses

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import datasets, random
from deepobs_func.datasets import DatasetSpec
from deepobs_func.runner import order
from deepobs_func.runner.config import PROTOCOLS
from deepobs_func.runner.order import epoch_order, epoch_orders, evaluation_chunk, train_eval_rows, valid_rows

KEY = random.key(42)


def sized(num: int, **changes: object) -> DatasetSpec:
    """A data set of that many training examples."""
    return dataclasses.replace(datasets.spec("mnist"), train_size=num, **changes)


DEFAULT, DEEPOBS = PROTOCOLS["default"], PROTOCOLS["deepobs-1.1.2"]


@given(num=st.integers(1, 300), batch_size=st.integers(1, 300), epoch=st.integers(0, 5))
def test_an_epoch_sees_every_example_once_but_the_last_partial_batch(num: int, batch_size: int, epoch: int) -> None:
    rows = epoch_order(DEFAULT, sized(num), KEY, epoch, batch_size)
    assert rows.shape == (num // batch_size, batch_size)
    assert len(rows.unique()) == rows.numel()
    assert rows.numel() == 0 or 0 <= int(rows.min()) <= int(rows.max()) < num


def test_epochs_at_once_are_those_one_by_one() -> None:
    cases = ((DEFAULT, sized(100)), (DEEPOBS, sized(100, file_sizes=(60, 40))), (DEFAULT, sized(100, shuffle=False)))
    for protocol, spec in cases:
        together = epoch_orders(protocol, spec, KEY, range(3, 7), 8)
        alone = [epoch_order(protocol, spec, KEY, epoch, 8) for epoch in range(3, 7)]
        assert torch.equal(together, torch.stack(alone))


def test_the_order_is_new_in_every_epoch_unless_it_is_fixed() -> None:
    first, second = (epoch_order(DEFAULT, sized(100), KEY, epoch, 10) for epoch in (0, 1))
    assert not torch.equal(first, second)
    fixed, again = (epoch_order(DEEPOBS, sized(100), KEY, epoch, 10) for epoch in (0, 7))
    assert torch.equal(fixed, again)
    assert not torch.equal(fixed, epoch_order(DEEPOBS, sized(100), random.key(43), 0, 10))


def test_the_training_sample_is_the_head_of_the_stream_or_the_same_for_every_seed() -> None:
    spec = datasets.spec("mnist")
    stream = epoch_order(DEEPOBS, spec, KEY, 0, 128).flatten()
    assert torch.equal(train_eval_rows(DEEPOBS, spec, KEY, 128), stream[:9984])
    sample = train_eval_rows(DEFAULT, spec, KEY, 128)
    assert len(sample) == len(sample.unique()) == 9984
    assert torch.equal(sample, train_eval_rows(DEFAULT, spec, random.key(7), 128))


def test_quadratic_evaluates_all_training_batches() -> None:
    spec = datasets.spec("quadratic")
    assert len(train_eval_rows(DEFAULT, spec, KEY, 128)) == 896
    assert order.test_rows(spec, 128, torch.device("cpu")).tolist() == list(range(896))


@given(batches=st.integers(1, 400), batch_size=st.integers(1, 5000), limit=st.integers(1, 10_000))
def test_chunks_are_whole_batches_that_divide_the_examples(batches: int, batch_size: int, limit: int) -> None:
    chunk = evaluation_chunk(batches * batch_size, batch_size, limit)
    assert chunk % batch_size == 0
    assert (batches * batch_size) % chunk == 0
    assert chunk <= max(limit, batch_size)


def test_the_reference_s_files_come_in_a_new_order_each_fixed_in_itself() -> None:
    spec = sized(30, file_sizes=(10, 10, 10))
    epochs = [epoch_order(DEEPOBS, spec, KEY, epoch, 10) for epoch in range(6)]
    blocks = {tuple(block.tolist()) for rows in epochs for block in rows}
    assert len(blocks) == 3
    assert all({int(row) // 10 for row in block} == {block[0] // 10} for block in blocks)
    assert len({tuple(rows[:, 0].tolist()) for rows in epochs}) > 1


def test_a_text_comes_in_stored_order() -> None:
    spec = dataclasses.replace(datasets.spec("tolstoi"), train_size=1001, test_size=501, train_eval_size=1001)
    for epoch in (0, 3):
        assert torch.equal(epoch_order(DEFAULT, spec, KEY, epoch, 4), torch.arange(20).view(5, 4))
    assert torch.equal(train_eval_rows(DEFAULT, spec, KEY, 4), torch.arange(20))
    assert len(order.test_rows(spec, 4, torch.device("cpu"))) == 8


CPU = torch.device("cpu")
KINDS = {
    "shuffled": lambda num: sized(num),
    "in order": lambda num: sized(num, shuffle=False),
    "of files": lambda num: sized(num, file_sizes=(num // 3, num - num // 3)),
}


@settings(max_examples=25)
@given(
    num=st.integers(2, 200),
    valid=st.integers(1, 199),
    batch_size=st.integers(1, 40),
    kind=st.sampled_from(sorted(KINDS)),
    protocol=st.sampled_from(sorted(PROTOCOLS)),
    seed=st.integers(0, 2**32),
)
def test_what_is_set_aside_is_never_trained_on(
    num: int, valid: int, batch_size: int, kind: str, protocol: str, seed: int
) -> None:
    """Whole batches of disjoint rows; what is set aside is the same for every seed and protocol."""
    valid = min(valid, num - 1)
    spec, key = dataclasses.replace(KINDS[kind](num), test_size=num // 2), random.key(seed)
    aside = valid_rows(spec, batch_size, valid, CPU)
    epochs = epoch_orders(PROTOCOLS[protocol], spec, key, range(3), batch_size, valid)
    sample = train_eval_rows(PROTOCOLS[protocol], spec, key, batch_size, valid)
    everything = set(valid_rows(spec, 1, valid, CPU).tolist())
    assert len(aside) == len(aside.unique()) == valid // batch_size * batch_size
    assert set(aside.tolist()) <= everything
    assert len(everything) == valid
    assert epochs.shape == (3, (num - valid) // batch_size, batch_size)
    for rows in (*epochs, sample):
        assert len(rows.unique()) == rows.numel()
        assert everything.isdisjoint(rows.flatten().tolist())
        assert rows.numel() % batch_size == 0


@settings(max_examples=25)
@given(num=st.integers(2, 100), share=st.floats(0.0, 0.99), protocol=st.sampled_from(sorted(PROTOCOLS)))
def test_the_rest_comes_in_the_order_of_all(num: int, share: float, protocol: str) -> None:
    valid = max(1, int(share * num))
    spec = sized(num, file_sizes=(num // 2, num - num // 2))
    aside = set(valid_rows(spec, 1, valid, CPU).tolist())
    whole = epoch_order(PROTOCOLS[protocol], spec, KEY, 3, 1).flatten().tolist()
    rest = epoch_order(PROTOCOLS[protocol], spec, KEY, 3, 1, valid).flatten().tolist()
    assert rest == [row for row in whole if row not in aside]


@settings(max_examples=25)
@given(num=st.integers(50, 3000), valid=st.integers(20, 1500), batch_size=st.integers(1, 5), length=st.integers(1, 9))
def test_the_end_of_a_text_is_set_aside_in_whole_windows(num: int, valid: int, batch_size: int, length: int) -> None:
    """As many windows as a text of that many characters has; the train sample has none of them."""
    spec = dataclasses.replace(datasets.spec("tolstoi"), train_size=num, train_eval_size=num, sequence_length=length)
    whole = epoch_order(DEFAULT, spec, KEY, 0, batch_size)
    windows = (valid - 1) // (length * batch_size)
    if windows >= len(whole):
        return
    rest, aside = (
        epoch_order(DEFAULT, spec, KEY, 0, batch_size, valid),
        valid_rows(spec, batch_size, valid, CPU).view(-1, batch_size),
    )
    assert len(aside) == windows
    assert torch.equal(torch.cat([rest, aside]), whole)
    assert torch.equal(train_eval_rows(DEFAULT, spec, KEY, batch_size, valid), rest.flatten())
