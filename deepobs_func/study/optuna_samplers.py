"""Optuna's samplers and pruners, driven by ask and tell.

Optuna searches the unit cube, whose points the spaces turn into values, so that all samplers take all spaces. Nothing
of Optuna's is kept: its studies live in memory, and after a kill they are made anew, asked again, and told the finished
trials from their records, in the order of their numbers. A trial's values are then the same, since a sampler with a
seed depends on what it was asked and told alone.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from deepobs_func.study.pruners import PrunerSpec
from deepobs_func.study.samplers import Sampler, Spaces, Told, values_at

_NAME = "deepobs_func"  # Hyperband's brackets depend on the study's name
_WORST = 1e300  # in the place of infinity, between two of which no percentile lies


class OptunaSampler(Sampler):
    """A sampler of Optuna's.

    Args:
        spaces: what is searched, by name.
        seed: of the sampler.
        kind: the name of a class of `optuna.samplers`.
        options: for its constructor.
    """

    def __init__(self, spaces: Spaces, seed: int, kind: str, options: Mapping[str, Any]) -> None:
        self._spaces = spaces
        self._axes: dict[str, BaseDistribution] = {name: FloatDistribution(0.0, 1.0) for name in spaces}
        with _quiet():
            sampler = getattr(optuna.samplers, kind)(seed=seed, **options)
            self._study = optuna.create_study(sampler=sampler, study_name=_NAME, direction="minimize")
        self._open: list[optuna.Trial] = []

    def ask(self) -> dict[str, Any] | None:
        with _quiet():
            trial = self._study.ask(self._axes)
        self._open.append(trial)
        return values_at(self._spaces, [trial.params[name] for name in self._spaces])

    def tell(self, told: Told) -> None:
        trial = self._open.pop(0)
        with _quiet():
            for epoch, loss in enumerate(told.losses, 1):
                trial.report(_finite(loss), epoch)
            if told.pruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, told.loss)


class Pruning:
    """Decides after each epoch of a trial whether it goes on.

    A decision depends on the trials that were told and on the trial's own epochs, never on another one that runs at the
    same time, so that it is the same however fast the others are.

    Args:
        spec: the pruner.
        epochs: of a whole run.
    """

    def __init__(self, spec: PrunerSpec, epochs: int) -> None:
        self._spec, self._epochs = spec, epochs
        self._ended: list[FrozenTrial] = []

    def start(self, number: int) -> PrunedTrial:
        """The trial of a number, which those told so far precede; what lies between runs at the same time."""
        options = {**self._spec.options, **dict.fromkeys(self._spec.of_epochs, self._epochs)}
        with _quiet():
            pruner = getattr(optuna.pruners, self._spec.kind)(**options)
            sampler = optuna.samplers.RandomSampler(seed=0)
            study = optuna.create_study(sampler=sampler, pruner=pruner, study_name=_NAME, direction="minimize")
            study.add_trials(self._ended)
            study.add_trials([create_trial(state=TrialState.FAIL) for _ in range(number - len(self._ended))])
            return PrunedTrial(study, study.ask(), self._epochs)

    def end(self, trial: PrunedTrial, told: Told) -> None:
        """Adds a trial that has ended; they are given in the order of their numbers."""
        trial.prunes(told.losses)
        self._ended.append(trial.told(told))


class PrunedTrial:
    """A trial under way, as its pruner sees it.

    Args:
        study: with the trials that had ended when it began.
        trial: itself.
        epochs: of a whole run.
    """

    def __init__(self, study: optuna.Study, trial: optuna.Trial, epochs: int) -> None:
        self._study, self._trial, self._epochs = study, trial, epochs
        self._seen, self._pruned = 0, False

    def prunes(self, losses: Sequence[float]) -> bool:
        """Whether it ends here.

        Args:
            losses: after each epoch so far, from 1; those that were seen before are not looked at again.
        """
        with _quiet():
            for epoch in range(self._seen + 1, len(losses) + 1):
                self._trial.report(_finite(losses[epoch - 1]), epoch)
                self._pruned = epoch < self._epochs and self._trial.should_prune()
                self._seen = epoch
        return self._pruned

    def told(self, told: Told) -> FrozenTrial:
        """The trial, ended."""
        with _quiet():
            if told.pruned:
                self._study.tell(self._trial, state=TrialState.PRUNED)
            else:
                self._study.tell(self._trial, told.loss)
        return self._study.trials[self._trial.number]


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else _WORST


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a line for each trial, and without warnings that some samplers are experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
