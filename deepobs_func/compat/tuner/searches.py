"""DeepOBS 1.2's tuners: settings that the samplers of studies propose, run one after the other by a runner."""

from __future__ import annotations

import itertools
import math
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepobs_func.compat.runners import StandardRunner
from deepobs_func.compat.runners.arguments import NAMES, Declared, key_of
from deepobs_func.compat.tuner.tuner_utils import SEEDS, rerun_setting
from deepobs_func.errors import ConfigError, option
from deepobs_func.study.samplers import Grid, Sampler, Told, find_sampler, make_sampler
from deepobs_func.study.spaces import Uniform, Values


class Tuner(ABC):
    """Runs settings of an optimizer, and the best one again.

    Args:
        optimizer_class, hyperparam_names: as for a runner.
        ressources: how many settings are run.
        runner: the class of runner.

    Raises:
        ConfigError: ressources is not a whole number from 1.
    """

    def __init__(
        self, optimizer_class: Any, hyperparam_names: Declared, ressources: int, runner: Any = StandardRunner
    ) -> None:
        if isinstance(ressources, bool) or not isinstance(ressources, int) or ressources < 1:
            raise ConfigError(f"ressources {ressources!r}: it must be a whole number from 1.")
        self._optimizer_class, self._hyperparam_names = optimizer_class, hyperparam_names
        self._ressources, self._runner = ressources, runner

    @abstractmethod
    def _sampler(self, seed: int) -> Sampler:
        """What proposes the settings."""

    def _values(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A proposal as the hyperparameters of a run."""
        return {name: plain(value) for name, value in asked.items()}

    def tune(
        self,
        testproblem: str | Sequence[str],
        output_dir: str | Path = "./results",
        random_seed: int = 42,
        rerun_best_setting: bool = True,
        mode: str = "final",
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Runs all settings on a problem or on several.

        What is finished already is not run again, so that the same call goes on after an interruption.

        Args:
            testproblem: the name, or several.
            output_dir: the results tree.
            random_seed: of the runs and of what is drawn.
            rerun_best_setting: whether the best setting is run with the seeds 43 to 51, too.
            mode: what is searched for: the best result after the last epoch, `"final"`, or of any, `"best"`.
            kwargs: for the runner, e.g. `num_epochs`.

        Returns:
            What the runner returned for each setting.

        Raises:
            ConfigError: the mode is another.
        """
        if mode not in ("final", "best"):
            raise ConfigError(f"{option('mode')} {mode}: it must be final or best.")
        names = [testproblem] if isinstance(testproblem, str) else sorted(testproblem)
        how = {key: value for key, value in kwargs.items() if key not in _OF_BAYES}
        found = [self._tuned(name, str(output_dir), random_seed, mode, how) for name in names]
        for name in names if rerun_best_setting else ():
            path = Path(output_dir, name, self._optimizer_class.__name__)
            rerun_setting(self._runner, self._optimizer_class, self._hyperparam_names, path, SEEDS, mode=mode)
        return list(itertools.chain.from_iterable(found))

    def _tuned(self, name: str, output_dir: str, seed: int, mode: str, how: dict[str, Any]) -> list[dict[str, Any]]:
        sampler, outputs = self._sampler(seed), list[dict[str, Any]]()
        while len(outputs) < self._ressources and (asked := sampler.ask()) is not None:
            runner = self._runner(self._optimizer_class, self._hyperparam_names)
            where = {"random_seed": seed, "output_dir": output_dir, "skip_if_exists": True}
            outputs.append(runner._run(name, hyperparams=self._values(asked), **where, **how))
            sampler.tell(Told(_cost(outputs[-1], mode), ()))
        return outputs

    def generate_commands_script(
        self,
        testproblem: str | Sequence[str],
        run_script: str,
        output_dir: str | Path = "./results",
        random_seed: int = 42,
        generation_dir: str | Path = "./command_scripts",
        **kwargs: Any,
    ) -> Path:
        """Writes a file with a command for each run, of a script that calls a runner.

        Args:
            testproblem: the name, or several.
            run_script: the script, which leaves problem and hyperparameters to the command line.
            output_dir, random_seed, kwargs: as for `tune`.
            generation_dir: where the file goes.

        Returns:
            The file.
        """
        names = [testproblem] if isinstance(testproblem, str) else sorted(testproblem)
        fixed = {"random_seed": random_seed, "output_dir": output_dir, **kwargs}
        options = itertools.chain.from_iterable(_words(key, value) for key, value in fixed.items())
        lines, last = [], shlex.join(options)
        for name in names:
            lines.append(f"##### {name} #####")
            sampler = self._sampler(random_seed)
            for _ in range(self._ressources):
                setting = self._values(sampler.ask() or {})
                chosen = itertools.chain.from_iterable((f"--{key_of(key)}", str(setting[key])) for key in setting)
                lines.append(f"python3 {shlex.join([run_script, name, *chosen])} {last}")
        folder = Path(generation_dir)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"jobs_{self._optimizer_class.__name__}_{type(self).__name__}.txt"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file


class GridSearch(Tuner):
    """All combinations of some values.

    Args:
        optimizer_class, hyperparam_names: as for a runner.
        grid: the values by name.
        ressources: how many combinations there are.
        runner: the class of runner.

    Raises:
        ConfigError: there are more or fewer combinations.
    """

    def __init__(
        self,
        optimizer_class: Any,
        hyperparam_names: Declared,
        grid: Mapping[str, Sequence[Any]],
        ressources: int,
        runner: Any = StandardRunner,
    ) -> None:
        super().__init__(optimizer_class, hyperparam_names, ressources, runner)
        self._grid = {name: Values(tuple(plain(value) for value in values)) for name, values in grid.items()}
        count = Grid(self._grid, 0).size
        if count != ressources:
            raise ConfigError(f"ressources {ressources}: the grid has {count} combinations.")

    def _sampler(self, seed: int) -> Sampler:
        return Grid(self._grid, seed)


class RandomSearch(Tuner):
    """Settings drawn from distributions.

    Args:
        optimizer_class, hyperparam_names: as for a runner.
        distributions: by name, what has a method `rvs`, as SciPy's have.
        ressources: how many are drawn.
        runner: the class of runner.
    """

    def __init__(
        self,
        optimizer_class: Any,
        hyperparam_names: Declared,
        distributions: Mapping[str, Any],
        ressources: int,
        runner: Any = StandardRunner,
    ) -> None:
        super().__init__(optimizer_class, hyperparam_names, ressources, runner)
        self._distributions = dict(distributions)

    def _sampler(self, seed: int) -> Sampler:
        return _Drawn(self._distributions, seed)


class _Drawn(Sampler):
    """Draws of distributions, one after the other from one generator."""

    def __init__(self, distributions: Mapping[str, Any], seed: int) -> None:
        self._distributions, self._generator = distributions, np.random.RandomState(seed)

    def ask(self) -> dict[str, Any] | None:
        return {name: each.rvs(random_state=self._generator) for name, each in self._distributions.items()}

    def tell(self, told: Told) -> None:
        return None


class GP(Tuner):
    """Settings that a Gaussian process suggests, Optuna's, from those before; the extra `tune` brings it.

    Args:
        optimizer_class, hyperparam_names: as for a runner.
        bounds: by name, the ends of what is searched.
        ressources: how many settings are run.
        runner: the class of runner.
        transformations: by name, from what is searched to the value.
    """

    def __init__(
        self,
        optimizer_class: Any,
        hyperparam_names: Declared,
        bounds: Mapping[str, tuple[float, float]],
        ressources: int,
        runner: Any = StandardRunner,
        transformations: Mapping[str, Callable[[float], Any]] | None = None,
    ) -> None:
        super().__init__(optimizer_class, hyperparam_names, ressources, runner)
        self._bounds, self._transformations = dict(bounds), dict(transformations or {})

    def _sampler(self, seed: int) -> Sampler:
        spaces = {name: Uniform(float(low), float(high)) for name, (low, high) in self._bounds.items()}
        return make_sampler(find_sampler("gp"), spaces, seed)

    def _values(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._transformations.get(name, plain)(value) for name, value in asked.items()}

    def generate_commands_script(self, *args: Any, **kwargs: Any) -> Path:
        """Is refused, whatever `args` and `kwargs` are: each setting depends on what came of those before.

        Raises:
            ConfigError: in any case.
        """
        raise ConfigError("GP proposes a setting when those before have run; call tune(), or take another tuner.")


_OF_BAYES = ("kernel", "acq_type", "acq_kappa", "acq_xi", "n_init_samples", "plotting_summary", "tuning_summary")
"""Arguments of DeepOBS's `GP.tune` for the library that it used; Optuna's process chooses for itself."""


def _words(name: str, value: Any) -> list[str]:
    """An argument of a run on the command line: switches are there or not, and lists are several words."""
    if value is None or value is False:
        return []
    if value is True and name in NAMES:
        return [f"--{name}"]
    return [f"--{name}", *map(str, value if isinstance(value, list | tuple) else [value])]


def plain(value: Any) -> Any:
    """A number of NumPy's as Python's."""
    return value.item() if hasattr(value, "item") else value


def _cost(output: Mapping[str, Any], mode: str) -> float:
    """What is minimised: a loss, or the negative accuracy; after the last epoch, or the best."""
    accuracies = output.get("test_accuracies")
    costs = output["test_losses"] if accuracies is None else [-value for value in accuracies]
    cost = float(min(costs) if mode == "best" else costs[-1])
    return math.inf if math.isnan(cost) else cost
