"""The package's own test problems in DeepOBS's form: views of the functional core's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepobs_func import problems
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.compat import config
from deepobs_func.compat.datasets import BY_NAME, RegisteredDataSet
from deepobs_func.compat.datasets.loaders import pass_key
from deepobs_func.compat.model import Model, Stream
from deepobs_func.compat.testproblems.architectures import of_problem
from deepobs_func.compat.testproblems.testproblem import TestProblem, reduced
from deepobs_func.nets.quadratic import hessian
from deepobs_func.problems.measures import vae
from deepobs_func.problems.problem import Problem


class RegisteredTestProblem(TestProblem):
    """A test problem of the package: a view of the functional core's.

    Args:
        batch_size: B.
        weight_decay: the factor of the L2 penalty; None for the problem's own. A problem without a penalty prints a
            warning, as DeepOBS does, and ignores it.
        device: where it lives; by default `config.get_default_device()`.

    Attributes:
        core: the functional core's problem, at this weight decay.

    Raises:
        ConfigError: the weight decay is negative or not finite.
    """

    name: ClassVar[str]

    def __init__(
        self, batch_size: int, weight_decay: float | None = None, device: torch.device | str | None = None
    ) -> None:
        core = problems.get(self.name)
        if weight_decay is not None and core.weight_decay is None:
            print(
                "WARNING: Weight decay is non-zero but no weight decay is used for this test problem "
                f"({self.name}: {weight_decay} is ignored)."
            )
            weight_decay = None
        self.core: Problem = core.with_weight_decay(weight_decay)
        super().__init__(batch_size, self.core.weight_decay, device)

    def set_up(self) -> None:
        """Makes the data set and the model, whose initial values torch's generator draws."""
        self.dataset = dataset_class(self.core.dataset.name)(self._batch_size, device=self.device)
        params, state = self.core.init(pass_key(self.device), dtype=config.get_dtype())
        kind = of_problem(self.name)
        self.model = (kind.at if kind else Model)(self.core, params, state)
        self.dataset.listeners.append(self._follow)

    def _follow(self, stream: Stream) -> None:
        self.model.stream = stream

    def core_state(self) -> tuple[Params, ModelState]:
        """The model's parameters and state for the functions of `core`; copies."""
        return self.model.to_core()

    def load_core_state(self, params: Params, state: ModelState) -> None:
        """Takes the parameters `params` and the `state` of the functional core into the model, in place."""
        self.model.load_core(params, state)

    def _loss_and_accuracy(self, inputs: Tensor, targets: Tensor, reduction: str) -> tuple[Tensor, Tensor | None]:
        outputs = self.model(inputs)
        compared = inputs if self.core.measure is vae else targets
        return self._compute_loss(outputs, compared, reduction), self._compute_accuracy(outputs, compared)

    def _compute_loss(self, outputs: Any, targets: Tensor, reduction: str = "mean") -> Tensor:
        """The loss of a batch without the penalty.

        Args:
            outputs: of the model.
            targets: what the loader yields; the images, of a VAE.
            reduction: `"mean"`, `"sum"` or `"none"`.
        """
        return reduced(self.core.criterion(outputs, self._as_batch(targets)), reduction)

    def _compute_accuracy(self, outputs: Any, targets: Tensor) -> Tensor | None:
        correct = self.core.measure.correct
        return None if correct is None else correct(outputs, self._as_batch(targets)).to(config.get_dtype()).mean()

    def _as_batch(self, targets: Tensor) -> Batch:
        """A batch of the core that has what its losses read, which is the targets, or inputs that stand for them."""
        x, y = self.dataset.for_core(targets, targets)
        return Batch.of(x, y, {}, ModelState(dict(self.model.named_buffers()), {}))

    def _is_regularized(self, name: str, parameter: Tensor) -> bool:
        return name in self.core.regularized


class QuadraticTestProblem(RegisteredTestProblem):
    """The quadratic, with DeepOBS 1.2's names of its Hessian."""

    @staticmethod
    def _make_hessian() -> Tensor:
        """The Hessian, `(100, 100)`, of the type of the settings; the same at each call."""
        return torch.as_tensor(hessian(), dtype=config.get_dtype())

    @property
    def _hessian(self) -> Tensor:
        found: Tensor = self.model.hessian
        return found


OWN_CLASSES: Mapping[str, type[RegisteredTestProblem]] = {"quadratic_deep": QuadraticTestProblem}
"""The problems of which DeepOBS shows more than of the others."""


def dataset_class(name: str) -> type[RegisteredDataSet]:
    """The class of one of the package's data sets, or of an installed package's."""
    return BY_NAME.get(name) or type(name, (RegisteredDataSet,), {"name": name})
