"""A test problem of the user's own, made by subclassing `TestProblem`, as a problem of the functional core."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.utils import _pytree as pytree
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from deepobs_func import datasets, problems, random
from deepobs_func.compat.datasets import RegisteredDataSet
from deepobs_func.compat.testproblems import RegisteredTestProblem, TestProblem
from deepobs_func.datasets.prepare import as_it_is
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.problems.modules import copied
from deepobs_func.problems.problem import Problem

Given = str | type[TestProblem] | TestProblem


def core_problem(given: Given, batch_size: int, weight_decay: float | None, seed: int) -> tuple[str, Problem | None]:
    """The name of a test problem, and its problem where it is none of the package's.

    Args:
        given: a name of the package's, or of a class in a module of the same name in the current folder; or a subclass
            of `TestProblem`; or an instance, whose batch size and weight decay are the run's.
        batch_size, weight_decay: of the run.
        seed: of torch's generator while an own problem is set up, so that its model starts where the seed says.

    Raises:
        ConfigError: there is no such problem, or it cannot be a problem of the functional core; the message says why.
    """
    if isinstance(given, str) and given in problems.names():
        return given, None
    found = _local(given) if isinstance(given, str) else given
    if isinstance(found, type) and issubclass(found, RegisteredTestProblem) and found.name in problems.names():
        return found.name, None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tproblem = found if isinstance(found, TestProblem) else _made(found, batch_size, weight_decay)
        return type(tproblem).__name__, _converted(tproblem)


def _local(name: str) -> type[TestProblem]:
    """The class of a name in a module of that name, which may be in the current folder."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(name), name, None) if name.isidentifier() else None
    except ModuleNotFoundError as error:
        if error.name != name:
            raise ConfigError(f"The module {name} cannot be imported: {error}.") from error
        raise ConfigError(unknown("problem", name, problems.names(), listing="deepobs list")) from error
    finally:
        sys.path.remove(folder)
    if not (isinstance(found, type) and issubclass(found, TestProblem)):
        raise ConfigError(f"The module {name} has no test problem of its name: a class {name}(TestProblem).")
    return found


def _made(cls: Any, batch_size: int, weight_decay: float | None) -> TestProblem:
    if not (isinstance(cls, type) and issubclass(cls, TestProblem)):
        raise ConfigError(f"testproblem {cls!r}: it must be a name, or a subclass of compat's TestProblem.")
    made = cls(batch_size) if weight_decay is None else cls(batch_size, weight_decay)
    made.set_up()
    return made


def _converted(tproblem: TestProblem) -> Problem:
    model = copied(tproblem.model, {}).to("cpu")  # the user's stays where it is
    factor, regularized = _penalty(tproblem)
    return problems.from_module(
        model,
        _Criterion(tproblem),
        _data(tproblem),
        correct=None if _first_accuracy(tproblem, model) is None else _Correct(tproblem),
        weight_decay=factor,
        regularize=lambda name, parameter: name in regularized,
        batch_size=tproblem.batch_size,
        name=type(tproblem).__name__,
    )


class _Criterion:
    """`(outputs, y) -> (B,)`: the loss of each example."""

    def __init__(self, tproblem: TestProblem) -> None:
        self._compute = _without_data(tproblem)._compute_loss

    def __call__(self, outputs: Any, y: Tensor) -> Tensor:
        return self._compute(outputs, y, reduction="none")


class _Correct:
    """`(outputs, y) -> (B,)`: the accuracy of each example alone, as a batch of one."""

    def __init__(self, tproblem: TestProblem) -> None:
        self._compute = _without_data(tproblem)._compute_accuracy

    def __call__(self, outputs: Any, y: Tensor) -> Tensor:
        try:
            return vmap(self._of_one)(outputs, y)
        except RuntimeError:  # it reads numbers, such as by item()
            singles = zip(*(leaf.unbind() for leaf in pytree.tree_leaves(outputs)), strict=True)
            structure = pytree.tree_structure(outputs)
            examples = (pytree.tree_unflatten(list(each), structure) for each in singles)
            return torch.stack([self._of_one(*pair) for pair in zip(examples, y.unbind(), strict=True)])

    def _of_one(self, outputs: Any, y: Tensor) -> Tensor:
        batch = pytree.tree_map(lambda leaf: leaf.unsqueeze(0), outputs)
        return torch.as_tensor(self._compute(batch, y.unsqueeze(0)), dtype=torch.get_default_dtype())


def _without_data(tproblem: TestProblem) -> TestProblem:
    """A copy without data set and model, which are no part of what it measures."""
    bare = copy.copy(tproblem)
    bare.__dict__ |= {"_dataset": None, "_model": None, "_iterator": None, "_groups": None, "_is_making": True}
    if vars(bare)["loss_function"] == tproblem._loss_function:
        bare.loss_function = bare._loss_function
    return bare


def _first_accuracy(tproblem: TestProblem, model: nn.Module) -> Any:
    """The accuracy of two test examples, of a copy of the model, whose state a forward pass may move."""
    examples = tproblem.test_loader.dataset
    inputs, targets = default_collate([examples[0], examples[1]])
    with torch.no_grad():
        return tproblem._compute_accuracy(copied(model, {}).eval()(inputs), targets)


def _penalty(tproblem: TestProblem) -> tuple[float | None, set[str]]:
    """The factor of the penalty, and the names of the parameters that it counts."""
    if type(tproblem).get_regularization_loss is not TestProblem.get_regularization_loss:
        raise ConfigError(
            f"{type(tproblem).__name__} overrides get_regularization_loss; the runner's penalty is the L2 of one "
            "factor. Override get_regularization_groups instead."
        )
    groups = {factor: group for factor, group in tproblem.regularization_groups.items() if factor and group}
    if len(groups) > 1:
        raise ConfigError(f"{type(tproblem).__name__} has penalties of {len(groups)} factors; the runner takes one.")
    names = {id(parameter): name for name, parameter in tproblem.model.named_parameters()}
    for factor, group in groups.items():
        return factor, {names[id(parameter)] for parameter in group}
    return None, set()


def _data(tproblem: TestProblem) -> DatasetSpec:
    """The data set: its tensors where it has some, else its examples as they are asked for."""
    data, name = tproblem.dataset, f"{type(tproblem).__name__}_data"
    if isinstance(data, RegisteredDataSet) and (found := data.for_runner()) is not None:
        return found
    train, test = data.train_loader.dataset, data.test_loader.dataset
    if any(isinstance(each, IterableDataset) for each in (train, test)):
        raise ConfigError(
            f"{type(data).__name__}: the runner asks for examples by their index, which it does not have."
        )
    if all(isinstance(each, TensorDataset) and len(each.tensors) == 2 for each in (train, test)):
        found = datasets.from_arrays(name, train.tensors, test.tensors)
    else:
        found = _streamed(name, train, test)
    return replace(found, train_eval_size=getattr(data, "_train_eval_size", None))


def _streamed(name: str, train: TorchDataset[Any], test: TorchDataset[Any]) -> DatasetSpec:
    """A data set that is read example by example, so that random transforms draw anew at each visit."""
    splits = {"train": train, "test": test}

    def read(
        spec: DatasetSpec, folder: Path | None, split: str, rows: Tensor, key: random.Key, **how: Any
    ) -> Generator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(rows.tolist()):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(int(random.bits(random.fold_in(key, step), 1)))
                examples = [splits[split][row] for row in batch]
            x, y = default_collate(examples)
            yield x, y

    def fake(spec: DatasetSpec, key: random.Key, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        rows = random.integers(key, len(train), (size,)).tolist()  # type: ignore[arg-type]
        x, y = default_collate([train[row] for row in rows])
        return as_it_is(x, dtype), as_it_is(y, dtype)

    x, y = default_collate([train[0], test[0]])
    return DatasetSpec(
        name=name,
        title=name,
        train_size=len(train),  # type: ignore[arg-type]
        test_size=len(test),  # type: ignore[arg-type]
        shape=tuple(x.shape[1:]),
        num_classes=None,
        reader=read,
        prepare=as_it_is,
        fake=fake,
        extremes=lambda spec, dtype: (as_it_is(x, dtype), as_it_is(y, dtype)),
        source="arrays",
        streamed=True,
    )
