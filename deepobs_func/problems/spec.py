"""A test problem as plain data, so that listing all of them imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from deepobs_func.errors import ConfigError
from deepobs_func.probes.catalog import HVPMode


class Deviation(NamedTuple):
    """A quirk of DeepOBS 1.1.2, and what this project does about it.

    Attributes:
        quirk: what the reference does.
        default: what the protocol `default` does instead.
        deepobs: what the protocol `deepobs-1.1.2` does.
    """

    quirk: str
    default: str
    deepobs: str


class Recipe(NamedTuple):
    """Settings to train a problem with, from the literature or from a sweep.

    Attributes:
        optimizer: its name.
        lr: the learning rate.
        source: who trained with it: a citation, or what was measured here.
        hyperparams: of the optimizer, where not its defaults.
        schedule: of the learning rate, as `RunConfig.schedule`; None for a constant one.
        warm_up: epochs, as `RunConfig.warm_up`.
    """

    optimizer: str
    lr: float
    source: str
    hyperparams: Mapping[str, float] = {}
    schedule: str | None = None
    warm_up: float = 0.0

    @property
    def options(self) -> str:
        """The same as options of `deepobs run`."""
        given = {"optimizer": self.optimizer, "lr": f"{self.lr:g}"}
        given |= {f"opt.{name}": f"{value:g}" for name, value in self.hyperparams.items()}
        given |= {} if self.schedule is None else {"schedule": self.schedule}
        given |= {"warm-up": f"{self.warm_up:g}"} if self.warm_up else {}
        return " ".join(f"--{name} {value}" for name, value in given.items())


@dataclass(frozen=True)
class ProblemSpec:
    """One test problem: a data set, a net and a loss, each by name.

    Attributes:
        name: DeepOBS's name, or our own.
        dataset: the name of the data set.
        net: the import path of a function or class that makes the net; `net_args` are its arguments.
        measure: the import path of a `problems.measures.Measure`.
        parameters: the number of trainable parameters.
        epochs, batch_size: the published defaults, or, where `defaults_chosen_here`, ours.
        weight_decay: the default factor of the L2 penalty; None where the problem has no penalty.
        regularize: the import path of the function that says which parameters the penalty counts.
        schedule: the learning-rate schedule of the reference's docstrings, `(epoch, factor)` pairs.
        accuracy: whether an accuracy is defined.
        separable: whether an example's training loss depends on that example alone.
        compile_step: whether compiling a whole training step is worth its time; not for an unrolled LSTM.
        hvp_mode: the way to a Hessian-vector product that was measured to be the fastest, eager on a CPU at the
            default batch size or what fits.
        deviations: quirks of the reference that concern this problem.
        recipe: settings to train it with, where DeepOBS has published none.
    """

    name: str
    dataset: str
    net: str
    measure: str
    parameters: int
    epochs: int
    batch_size: int
    net_args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weight_decay: float | None = None
    regularize: str = "deepobs_func.problems.problem:kernels"
    schedule: tuple[tuple[int, float], ...] = ()
    accuracy: bool = True
    separable: bool = True
    defaults_chosen_here: bool = False
    compile_step: bool = True
    hvp_mode: HVPMode = "reverse-over-forward"
    deviations: tuple[Deviation, ...] = ()
    recipe: Recipe | None = field(default=None, hash=False)


FIXED_ORDER = Deviation(
    "the mini-batches come in the same order in every epoch",
    "reshuffled every epoch",
    "one fixed order a seed",
)
TRAIN_EVAL_HEAD = Deviation(
    "the training set is evaluated on the head of the training stream",
    "a fixed sample, the same for every seed",
    "the head of the training stream",
)
KEYED_EVALUATION = Deviation(
    "the VAE draws its noise in evaluation too, so its test loss is random",
    "as in 1.1.2, from the run's key",
    "as in 1.1.2, from the run's key",
)
FIRST_HESSIAN = Deviation(
    "a second quadratic_deep in one process has another Hessian",
    "always the first one",
    "always the first one",
)
WRONG_DATA = Deviation("fmnist_mlp trains on MNIST", "Fashion-MNIST", "Fashion-MNIST (not among the baselines)")

FIVE_FILES = Deviation(
    "the five files of the training set come in a new order at every pass, each with its own fixed order",
    "reshuffled every epoch",
    "as in 1.1.2",
)
AUGMENTED_TRAIN_EVAL = Deviation(
    "the training set is evaluated on the head of the training stream, augmented",
    "a fixed sample, the same for every seed, not augmented",
    "the head of the training stream, augmented",
)
WEAK_BRIGHTNESS = Deviation(
    "the brightness changes by up to 63/255 on pixels in 0..255, which is next to nothing",
    "as in 1.1.2",
    "as in 1.1.2",
)
SHORT_SVHN = Deviation("SVHN uses 64,000 of its 73,257 training images", "as in 1.1.2", "as in 1.1.2")
LAST_RELU = Deviation("All-CNN-C has a ReLU after its last convolution", "as in 1.1.2", "as in 1.1.2")
LEGACY_RESIZE = Deviation("TF1's bilinear resize, without half-pixel centres", "as in 1.1.2", "as in 1.1.2")
NO_DROPOUT = Deviation("Inception's dropout never fires", "as in 1.1.2", "as in 1.1.2")
LSTM_GRADIENT = Deviation(
    "the LSTM's gradient is slightly wrong: its state is overwritten before backpropagation",
    "the true gradient",
    "the true gradient",
)

ONE_FILE = (FIXED_ORDER, TRAIN_EVAL_HEAD)


def checked_weight_decay(value: Any) -> float:
    """The factor of an L2 penalty.

    Raises:
        ConfigError: it is not a finite number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not (0 <= value < math.inf):
        raise ConfigError(f"A weight decay is a finite number, 0 or more, not {value!r}.")
    return value
