"""The base of DeepOBS's test problems, to be subclassed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from deepobs_func.compat import config
from deepobs_func.compat.datasets import Loader
from deepobs_func.compat.datasets.loaders import drawn_seed
from deepobs_func.compat.model import Stream
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.problems.problem import kernels
from deepobs_func.problems.spec import checked_weight_decay

REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda losses: losses.mean(),
    "sum": lambda losses: losses.sum(),
    "none": lambda losses: losses,
}
Evaluated = tuple[Tensor, Any]


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """Losses `(B,)` as their mean, their sum, or as they are.

    Raises:
        ConfigError: there is no such reduction.
    """
    if reduction not in REDUCTIONS:
        raise ConfigError(unknown("reduction", str(reduction), REDUCTIONS))
    return REDUCTIONS[reduction](losses)


class TestProblem(ABC):
    """A data set, a model, and what is measured of it.

    A subclass makes `dataset` and `model` in `set_up` and says what the loss is, in `_compute_loss`; or, as in DeepOBS
    1.2, makes `data`, `net` and `loss_function`. `set_up` may be left to the first use.

    Args:
        batch_size: B.
        weight_decay: the factor of the L2 penalty; None for the problem's own.
        device: where it lives; by default `config.get_default_device()`.

    Attributes:
        device: where it lives.
        loss_function: `reduction -> ((outputs, targets) -> loss)`, as in DeepOBS 1.2.
        phase: of DeepOBS 1.2: `"train"`, `"train_eval"`, `"valid"` or `"test"`; None before the first `*_init_op`.
    """

    __test__ = False  # no test of pytest's

    def __init__(
        self, batch_size: int, weight_decay: float | None = None, device: torch.device | str | None = None
    ) -> None:
        self._batch_size = batch_size
        self._weight_decay = None if weight_decay is None else checked_weight_decay(weight_decay)
        self.device: torch.device = torch.device(device or config.get_default_device())
        self.loss_function: Callable[..., Any] = self._loss_function
        self.phase: str | None = None
        self._dataset: Any = None
        self._model: Any = None
        self._groups: dict[float, list[nn.Parameter]] | None = None
        self._iterator: Any = None
        self._is_making, self._seed = False, drawn_seed()

    @abstractmethod
    def set_up(self) -> None:
        """Makes the data set and the model."""

    def _compute_loss(self, outputs: Any, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The loss of a batch without the penalty: a scalar, or `(B,)` with `reduction="none"`."""
        if self.loss_function == self._loss_function:
            raise NotImplementedError(f"{type(self).__name__} has neither _compute_loss nor a loss_function.")
        return self.loss_function(reduction=reduction)(outputs, targets)

    def _compute_accuracy(self, outputs: Any, targets: Tensor) -> Tensor | None:
        """The share of a batch whose largest output is the target's, a scalar; None where there is no accuracy.

        Targets are class ids `(B, ...)` for outputs `(B, V, ...)`, or one-hot in the shape of the outputs.
        """
        labels = _labels(outputs, targets)
        return None if labels is None else (outputs.argmax(1) == labels).float().mean()

    @property
    def batch_size(self) -> int:
        """B."""
        return self._batch_size

    @property
    def weight_decay(self) -> float | None:
        """The factor of the L2 penalty; None where there is none."""
        return self._weight_decay

    @property
    def _device(self) -> torch.device:
        return self.device

    @property
    def dataset(self) -> Any:
        """The data set; `data` in DeepOBS 1.2."""
        self._made(self._dataset)
        return self._dataset

    @dataset.setter
    def dataset(self, dataset: Any) -> None:
        self._dataset = dataset

    @property
    def model(self) -> Any:
        """The network, an `nn.Module`; `net` in DeepOBS 1.2."""
        self._made(self._model)
        return self._model

    @model.setter
    def model(self, model: Any) -> None:
        self._model = model

    data = dataset
    net = model

    def _made(self, found: Any) -> None:
        """Sets up what is not there yet; once, also where `set_up` reads what it is about to make.

        What `set_up` draws then follows from torch's generator as it was when the problem was made.
        """
        if found is None and not self._is_making:
            self._is_making = True
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self._seed)
                    self.set_up()
            finally:
                self._is_making = False

    @property
    def train_loader(self) -> Loader:
        """Training batches."""
        return self.dataset.train_loader

    @property
    def train_eval_loader(self) -> Loader:
        """The training batches that are evaluated."""
        return self.dataset.train_eval_loader

    @property
    def valid_loader(self) -> Loader:
        """Validation batches."""
        return self.dataset.valid_loader

    @property
    def test_loader(self) -> Loader:
        """Test batches."""
        return self.dataset.test_loader

    def train_init_op(self) -> None:
        """Starts a pass over the training set, with the model in training mode."""
        self._enter("train")

    def train_eval_init_op(self) -> None:
        """Starts a pass over the training examples that are evaluated, with the model in evaluation mode."""
        self._enter("train_eval")

    def valid_init_op(self) -> None:
        """Starts a pass over the validation set, with the model in evaluation mode."""
        self._enter("valid")

    def test_init_op(self) -> None:
        """Starts a pass over the test set, with the model in evaluation mode."""
        self._enter("test")

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self._iterator = iter(getattr(self.dataset, f"_{phase}_dataloader"))
        self.model.train(phase == "train")

    def _get_next_batch(self) -> Any:
        """The next batch of the phase.

        Raises:
            StopIteration: the pass is over.
        """
        if self._iterator is None:
            raise ConfigError("No phase was entered: call train_init_op(), or give a batch of a loader.")
        return next(self._iterator)

    def get_batch_loss_and_accuracy(
        self, batch: Any = None, reduction: str = "mean", add_regularization_if_available: bool = True
    ) -> Evaluated:
        """Loss and accuracy of a batch.

        Args:
            batch: `(inputs, targets)`, as a loader yields them; the loss is without the penalty. None, as in DeepOBS
                1.2, for the next one of the phase, with the penalty, and without a gradient outside of training.
            reduction: `"mean"`, `"sum"`, or `"none"` for `(B,)`.
            add_regularization_if_available: of the next batch of the phase: whether the penalty is added.

        Returns:
            The loss, and the accuracy as a tensor, or None where there is none; for the next batch of the phase, the
            accuracy as a float, 0.0 where there is none.

        Raises:
            ConfigError: there is no such reduction.
            StopIteration: the pass of the phase is over.
        """
        if isinstance(batch, str):  # DeepOBS 1.2's first argument
            batch, reduction = None, batch
        if batch is None:
            return self.get_batch_loss_and_accuracy_func(reduction, add_regularization_if_available)()
        inputs, targets = (part.to(self.device) for part in batch)
        return self._loss_and_accuracy(inputs, targets, reduction)

    def get_batch_loss_and_accuracy_func(
        self, reduction: str = "mean", add_regularization_if_available: bool = True
    ) -> Callable[[], Evaluated]:
        """Takes the next batch of the phase.

        Args:
            reduction: of the losses.
            add_regularization_if_available: whether the penalty is added.

        Returns:
            A function that evaluates the model on this batch, as often as it is called: `() -> (loss, accuracy)`, the
            accuracy a float. A recurrent state is the same before each call.

        Raises:
            StopIteration: the pass of the phase is over.
        """
        inputs, targets = (part.to(self.device) for part in self._get_next_batch())
        stream = getattr(self.model, "stream", Stream())
        before = dict(stream.carry)

        def evaluate() -> Evaluated:
            stream.carry = before
            with torch.set_grad_enabled(self.phase == "train" and torch.is_grad_enabled()):
                loss, accuracy = self._loss_and_accuracy(inputs, targets, reduction)
                if add_regularization_if_available:
                    loss = loss + self.get_regularization_loss()
            return loss, 0.0 if accuracy is None else float(accuracy)

        return evaluate

    def _loss_and_accuracy(self, inputs: Tensor, targets: Tensor, reduction: str) -> tuple[Tensor, Tensor | None]:
        outputs = self.model(inputs)
        return self._compute_loss(outputs, targets, reduction), self._compute_accuracy(outputs, targets)

    def _loss_function(self, reduction: str = "mean") -> Callable[[Any, Tensor], Tensor]:
        """The loss in the form of DeepOBS 1.2."""
        return lambda outputs, targets: self._compute_loss(outputs, targets, reduction)

    def get_regularization_loss(self) -> Tensor:
        """The L2 penalty, a scalar: half of each group's factor times the squares of its parameters."""
        total = torch.zeros((), device=self.device)
        for factor, parameters in self.regularization_groups.items():
            for parameter in parameters if factor else ():
                total = total + 0.5 * factor * parameter.square().sum()
        return total

    @property
    def regularization_groups(self) -> dict[float, list[nn.Parameter]]:
        """The trained parameters by the factor of their penalty; 0.0 for those without."""
        return self.get_regularization_groups() if self._groups is None else self._groups

    @regularization_groups.setter
    def regularization_groups(self, groups: dict[float, list[nn.Parameter]] | None) -> None:
        self._groups = groups

    def get_regularization_groups(self) -> dict[float, list[nn.Parameter]]:
        """The parameters sorted by `_is_regularized`: biases and the like have no penalty."""
        groups: dict[float, list[nn.Parameter]] = {0.0: []}
        for name, parameter in self.model.named_parameters():
            counts = self.weight_decay is not None and self._is_regularized(name, parameter)
            groups.setdefault(self.weight_decay or 0.0 if counts else 0.0, []).append(parameter)
        return groups

    def _is_regularized(self, name: str, parameter: Tensor) -> bool:
        """Whether the penalty counts a parameter: those of rank 2 and up."""
        return kernels(name, parameter)


def _labels(outputs: Any, targets: Tensor) -> Tensor | None:
    """The class ids of targets; None where they are no classes of the outputs."""
    if not isinstance(outputs, Tensor) or outputs.ndim < 2:
        return None
    if targets.shape == outputs.shape:
        is_one_hot = targets.shape[1] > 1 and bool(
            ((targets == 0) | (targets == 1)).all() & (targets.sum(1) == 1).all()
        )
        return targets.argmax(1) if is_one_hot else None
    is_ids = not targets.is_floating_point() and targets.shape == outputs.shape[:1] + outputs.shape[2:]
    return targets if is_ids else None


class UnregularizedTestproblem(TestProblem):
    """A test problem of DeepOBS 1.2 without a penalty.

    Args:
        batch_size: B.
        weight_decay: has no effect.
        device: where it lives.
    """

    def get_regularization_groups(self) -> dict[float, list[nn.Parameter]]:
        """All parameters without one."""
        return {0.0: list(self.model.parameters())}


class WeightRegularizedTestproblem(TestProblem):
    """A test problem of DeepOBS 1.2 whose kernels have a penalty.

    Args:
        batch_size: B.
        l2_reg: the factor of the penalty.
    """

    def __init__(self, batch_size: int, l2_reg: float | None = None) -> None:
        super().__init__(batch_size, l2_reg)
