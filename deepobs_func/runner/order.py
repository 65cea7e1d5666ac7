"""Which examples come when: orders of the training set, and the samples that are evaluated."""

from __future__ import annotations

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.backend.threads import num_threads
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.runner.config import RunProtocol

_VALID = 1  # folded into the key of fixed samples, for that of the examples which are set aside


def epoch_order(
    protocol: RunProtocol, spec: DatasetSpec, key: random.Key, epoch: int, batch_size: int, valid: int = 0
) -> Tensor:
    """The rows of every batch of an epoch, `(steps, B)` int64; the last partial batch is dropped.

    Args:
        protocol: a fixed order is that of epoch 0 throughout; only whole files, where the reference reads several, come
            in a new order at every pass.
        spec: the data set; one that is not shuffled comes in stored order.
        key: the run's.
        epoch: from 0.
        batch_size: B.
        valid: how many examples are set aside, see `valid_rows`; the others come in the order that all would have.
    """
    return epoch_orders(protocol, spec, key, range(epoch, epoch + 1), batch_size, valid)[0]


def epoch_orders(
    protocol: RunProtocol, spec: DatasetSpec, key: random.Key, epochs: range, batch_size: int, valid: int = 0
) -> Tensor:
    """The rows of several epochs, `(epochs, steps, B)`, drawn at once: the same as one by one."""
    steps = train_steps(spec, batch_size, valid)
    key, num = random.fold_in(key, random.ORDER), steps * batch_size
    if spec.shuffle and not protocol.fixed_order:
        keys = random.fold_in(key, torch.tensor(epochs, device=key.device))
        rows = _permutation(keys.unsqueeze(-2), spec.train_size)
    else:
        rows = _orders_of_the_stream(spec, key, epochs)
    return _without(rows, spec, valid)[:, :num].unflatten(1, (steps, batch_size))


def _orders_of_the_stream(spec: DatasetSpec, key: random.Key, epochs: range) -> Tensor:
    """The rows of epochs in stored order, or in the reference's, which is drawn once for all of them."""
    if not spec.shuffle:
        return torch.arange(spec.train_size, device=key.device).expand(len(epochs), -1)
    fixed = random.fold_in(key, 0)
    if not spec.file_sizes:
        return _permutation(fixed, spec.train_size).expand(len(epochs), -1)
    files, first = [], 0
    for index, size in enumerate(spec.file_sizes):
        files.append(first + _permutation(random.fold_in(fixed, index), size))
        first += size
    keys = random.fold_in(random.fold_in(key, 1), torch.tensor(epochs, device=key.device))
    sequences = _permutation(keys.unsqueeze(-2), len(files)).tolist()
    return torch.stack([torch.cat([files[index] for index in sequence]) for sequence in sequences])


def _permutation(key: random.Key, num: int) -> Tensor:
    """Drawn by one thread: the many short operations of a hash wait long for a second one whose core is busy.

    On two cores that others used too, the first order of a run took 0.9 s with two threads, 0.02 s with one.
    """
    with num_threads(1):
        return random.permutation(key, num)


def train_steps(spec: DatasetSpec, batch_size: int, valid: int = 0) -> int:
    """How many whole batches an epoch has; below 1 where too few examples are left."""
    if not _has_windows(spec):
        return spec.batches(spec.train_size - valid, batch_size)
    return spec.batches(spec.train_size, batch_size) - _batches_aside(spec, batch_size, valid)


def valid_rows(spec: DatasetSpec, batch_size: int, valid: int, device: torch.device) -> Tensor:
    """The training examples that are set aside and evaluated, `(n,)`: whole batches of the `valid` ones.

    Of a set that is shuffled they are a random sample, the same for every seed; of one that is not, they are its end.
    Of a text they are the last windows of every stream, as many as a text of `valid` characters has.
    """
    num = _batches_aside(spec, batch_size, valid) * batch_size
    if not _has_windows(spec):
        return _aside(spec, valid, device)[:num]
    end = spec.batches(spec.train_size, batch_size) * batch_size
    return torch.arange(end - num, end, device=device)


def _has_windows(spec: DatasetSpec) -> bool:
    """Whether batch k is rows `k B : (k + 1) B`, so that whole batches are set aside."""
    return bool(spec.arrange) or spec.sequence_length is not None


def _batches_aside(spec: DatasetSpec, batch_size: int, valid: int) -> int:
    return spec.batches(valid, batch_size) if valid else 0


def _aside(spec: DatasetSpec, valid: int, device: torch.device) -> Tensor:
    """All rows that are set aside, `(valid,)`, of a set that is no text."""
    if not spec.shuffle:
        return torch.arange(spec.train_size - valid, spec.train_size, device=device)
    key = random.fold_in(random.fold_in(random.key(0, device), random.DATA), _VALID)
    return random.permutation(key, spec.train_size)[:valid]


def _without(rows: Tensor, spec: DatasetSpec, valid: int) -> Tensor:
    """Orders of the whole set, `(..., train_size)`, without what is set aside; the end of a text is not reached."""
    if not valid or _has_windows(spec):
        return rows
    stays = torch.ones(spec.train_size, dtype=torch.bool, device=rows.device)
    stays[_aside(spec, valid, rows.device)] = False
    return rows[stays[rows]].unflatten(0, (*rows.shape[:-1], spec.train_size - valid))


def train_eval_rows(
    protocol: RunProtocol, spec: DatasetSpec, key: random.Key, batch_size: int, valid: int = 0
) -> Tensor:
    """The training examples that are evaluated, `(n,)`: as many whole batches as the test set has, as far as there are.

    The head of the first epoch's stream under `train_eval_head`, else a random sample that is the same for every seed.
    None of them is one of the `valid` that are set aside.
    """
    size = spec.train_eval_size or min(spec.test_size, spec.train_size)
    num = min(spec.batches(size, batch_size), train_steps(spec, batch_size, valid)) * batch_size
    if protocol.train_eval_head or not spec.shuffle:
        return epoch_order(protocol, spec, key, 0, batch_size, valid).flatten()[:num]
    sample_key = random.fold_in(random.key(0, key.device), random.DATA)
    return _without(_permutation(sample_key, spec.train_size), spec, valid)[:num]


def test_rows(spec: DatasetSpec, batch_size: int, device: torch.device) -> Tensor:
    """The test examples that are evaluated, `(n,)`: all but the last partial batch."""
    return torch.arange(spec.batches(spec.test_size, batch_size) * batch_size, device=device)


def evaluation_chunk(num_examples: int, batch_size: int, limit: int) -> int:
    """The largest whole number of batches, up to `limit` examples, that divides the examples evenly.

    One shape for every chunk, so that what depends on it is set up once.

    >>> evaluation_chunk(9984, 128, 2048), evaluation_chunk(896, 128, 2048), evaluation_chunk(10000, 5000, 2048)
    (1664, 896, 5000)
    """
    batches = num_examples // batch_size
    fitting = [k for k in range(1, batches + 1) if batches % k == 0 and k * batch_size <= max(limit, batch_size)]
    return max(fitting) * batch_size
