"""DeepOBS's runners: a class of torch optimizers on a test problem, as `deepobs_func.run` runs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from deepobs_func import records
from deepobs_func.compat import config, testproblems
from deepobs_func.compat.runners import arguments, loops
from deepobs_func.compat.runners.arguments import Declared
from deepobs_func.compat.runners.own import Given, core_problem
from deepobs_func.compat.runners.printing import Printer
from deepobs_func.compat.testproblems import TestProblem
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.factories import AsGiven
from deepobs_func.records import RunRecord
from deepobs_func.runner.callbacks import Callback, TensorBoard
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.keeping import finished
from deepobs_func.runner.loop import run

_NEWER = {"l2_reg": "weight_decay", "lr": "learning_rate", "tb_log": "tf_logging"}  # DeepOBS 1.2's names
_MEASURED = (
    *("train_losses", "valid_losses", "test_losses", "minibatch_train_losses"),
    *("train_accuracies", "valid_accuracies", "test_accuracies"),
)


class PTRunner:
    """Runs a class of torch optimizers on test problems, under the protocol of DeepOBS 1.1.2.

    A subclass with a method `training`, as in DeepOBS 1.2, makes its own loop; what it returns is recorded.

    Args:
        optimizer_class: a subclass of `torch.optim.Optimizer`, or a function that makes an optimizer of parameters.
        hyperparameter_names: its hyperparameters: a list of `{"name", "type", "default"?}` without the learning rate,
            as in 1.1.2; or a mapping of names, as in 1.2, with it.
        hyperparams: 1.1.2's name of the same.

    Raises:
        ConfigError: a hyperparameter has no name or no type.
    """

    def __init__(
        self, optimizer_class: Any, hyperparameter_names: Declared = None, *, hyperparams: Declared = None
    ) -> None:
        given = hyperparameter_names if hyperparams is None else hyperparams
        self._optimizer_class, self._hyperparams = optimizer_class, given
        self._optimizer_name: str = optimizer_class.__name__
        self._declared = arguments.declared(given)
        self._is_newer = isinstance(given, Mapping)

    def run(
        self, testproblem: Given | None = None, hyperparams: Mapping[str, Any] | None = None, **given: Any
    ) -> dict[str, Any]:
        """Runs a test problem, and writes the record.

        What is not given is read from the command line where the script that Python was started with calls this, or
        where it cannot do without; `--help` shows the flags. Elsewhere it has its default.

        Args:
            testproblem: a name; the name of a module with a class of that name; a subclass of `TestProblem`; or an
                instance, whose batch size and weight decay are the run's.
            hyperparams: of the optimizer, with `lr`, as in DeepOBS 1.2; its own weight decay, too.
            given: `weight_decay` (of the problem), `batch_size`, `num_epochs`, `learning_rate`, `lr_sched_epochs`,
                `lr_sched_factors`, `random_seed`, `data_dir`, `output_dir`, `train_log_interval`, `print_train_iter`,
                `tf_logging`, `no_logs`, `skip_if_exists`, and the hyperparameters of the optimizer.

        Returns:
            What was recorded, with DeepOBS 1.2's `optimizer_name` and `optimizer_hyperparams`.

        Raises:
            ConfigError: an argument is unknown or out of range, two of them contradict each other, or `config`'s dtype
                is not float32.
            SystemExit: the command line has a mistake, or lacks what must be given.
        """
        reads = arguments.given_by_main()
        return self._completed({**given, "testproblem": testproblem, "hyperparams": hyperparams}, reads)

    def _run(self, testproblem: Given, hyperparams: Mapping[str, Any] | None = None, **given: Any) -> dict[str, Any]:
        """The same without the command line."""
        return self._completed({**given, "testproblem": testproblem, "hyperparams": hyperparams}, False)

    def _completed(self, given: dict[str, Any], reads_command_line: bool) -> dict[str, Any]:
        """Fills in what was not given, and runs."""
        more = {name: given.pop(name, None) for name in ("skip_if_exists", "tb_log_dir")}
        hyperparams, schedule = given.pop("hyperparams", None) or {}, given.pop("lr_schedule", None)
        rate = next((each for name, each in self._declared.items() if _NEWER.get(name, name) == "learning_rate"), None)
        defaults = {"learning_rate": rate.default} if rate and rate.has_default else {}
        pairs = [*given.items(), *((arguments.key_of(name), value) for name, value in hyperparams.items())]
        given = arguments.merged((_NEWER.get(name, name), value) for name, value in pairs)
        given = arguments.merged([*given.items(), *_schedule(schedule, {**defaults, **given}).items()])
        given = _with_instance(given)
        hyper = {name: each for name, each in self._declared.items() if name not in ("lr", "learning_rate")}
        if self._hyperparams is None:
            hyper |= {name: arguments.undeclared(name, given[name]) for name in given if name not in arguments.NAMES}
        own = {} if self._own_training is None else loops.extra_of(self._own_training, given, hyper)
        given = {name: value for name, value in given.items() if name not in own}
        arguments.check_known(given, hyper, self._optimizer_name)
        how = {"reads_command_line": reads_command_line, "by_problem": self._is_newer or self._hyperparams is None}
        found = arguments.completed(given, hyper, self._optimizer_name, defaults=defaults, **how)
        values = {arguments.name_of(key): each.value(key, found.pop(key)) for key, each in hyper.items()}
        if self._own_training is not None:
            return self._train_own(found, values, own, **more)
        return self._execute(found, values, **more)

    def _execute(
        self, found: dict[str, Any], hyperparams: dict[str, Any], skip_if_exists: bool | None, tb_log_dir: str | None
    ) -> dict[str, Any]:
        _check_dtype()
        seed, batch_size, weight_decay = (found[name] for name in ("random_seed", "batch_size", "weight_decay"))
        name, problem = core_problem(found["testproblem"], batch_size, weight_decay, seed)
        known = problem or testproblems.testproblem(name, batch_size, device="cpu").core
        if weight_decay is not None and known.weight_decay is None:
            print(f"WARNING: {name} has no L2 penalty; the weight decay {weight_decay} is ignored.")
            weight_decay = None
        callbacks: list[Callback] = [Printer(found["print_train_iter"])]
        if found["tf_logging"]:
            callbacks.append(TensorBoard(tb_log_dir or found["output_dir"]))
        run_config = RunConfig(
            problem=name,
            optimizer=self._optimizer_name,
            lr=found["learning_rate"],
            hyperparams=hyperparams,
            epochs=found.get("num_epochs"),
            batch_size=batch_size,
            seed=seed,
            weight_decay=weight_decay,
            lr_sched_epochs=found["lr_sched_epochs"] or None,
            lr_sched_factors=found["lr_sched_factors"] or None,
            protocol="deepobs-1.1.2",
            data=found["data_dir"] or config.get_data_dir(),
            output_dir=None if found["no_logs"] else found["output_dir"],
            device=config.get_default_device(),
            train_log_interval=found["train_log_interval"],
        )
        done = run(run_config, problem, AsGiven(self._optimizer_class), callbacks, resume=bool(skip_if_exists))
        return self._output(done.record)

    def _output(self, record: RunRecord) -> dict[str, Any]:
        """A record as DeepOBS 1.1.2 writes it, with what 1.2 names otherwise."""
        hyperparams = {"lr": record.learning_rate, **record.hyperparams}
        return record.to_json() | {"optimizer_name": record.optimizer, "optimizer_hyperparams": hyperparams}

    @property
    def _own_training(self) -> Any:
        """The loop of a subclass; None where it has none."""
        return getattr(self, "training", None)

    def _train_own(
        self,
        found: dict[str, Any],
        hyperparams: dict[str, Any],
        own: Mapping[str, Any],
        skip_if_exists: bool | None,
        tb_log_dir: str | None,
    ) -> dict[str, Any]:
        """Calls the loop of a subclass, and records what it returns."""
        handed = loops.arguments_of(self._own_training, found, tb_log_dir) | dict(own)
        if found["data_dir"]:
            config.set_data_dir(found["data_dir"])
        tproblem = self.create_testproblem(
            found["testproblem"], found["batch_size"], found["weight_decay"], found["random_seed"]
        )
        recorded = hyperparams | {name: value for name, value in own.items() if value is not None}
        empty = loops.empty_record(self, self._optimizer_class, tproblem, found, recorded)
        if skip_if_exists and (done := finished(empty, found["output_dir"])) is not None:
            return self._output(done)
        rate = {"lr": found["learning_rate"]}
        output = self._own_training(tproblem, {**rate, **hyperparams}, found["num_epochs"], **handed)
        record = replace(empty, **{name: output[name] for name in _MEASURED if name in output})
        if not found["no_logs"]:
            record.path, record.note = records.write_anywhere(record, found["output_dir"])
        return self._output(record)

    @staticmethod
    def create_testproblem(
        testproblem: Given, batch_size: int, l2_reg: float | None = None, random_seed: int = 42
    ) -> TestProblem:
        """Makes a test problem and sets it up, with torch's generator seeded.

        Args:
            testproblem: its name or its class; or an instance, which has its batch size and penalty.
            batch_size: B.
            l2_reg: the factor of its penalty; None for its own.
            random_seed: of torch's generator.

        Returns:
            The test problem.
        """
        torch.manual_seed(random_seed)
        given = () if l2_reg is None else (l2_reg,)
        if isinstance(testproblem, str):
            made: TestProblem = testproblems.testproblem(testproblem, batch_size, *given)
        else:
            made = testproblem if isinstance(testproblem, TestProblem) else testproblem(batch_size, *given)
        made.set_up()
        return made

    @staticmethod
    def evaluate(tproblem: TestProblem, phase: str | bool = "TEST", test: bool | None = None) -> tuple[float, float]:
        """The mean loss, with the penalty, and the mean accuracy over a pass of a phase.

        Args:
            tproblem: the test problem.
            phase: `"TRAIN"`, `"VALID"` or `"TEST"`; or whether it is the test set.
            test: whether it is the test set, as DeepOBS 1.2 had it first.

        Returns:
            Loss and accuracy.

        Raises:
            ConfigError: there is no such phase.
        """
        phase = test if test is not None else phase
        name = {True: "TEST", False: "TRAIN"}[phase] if isinstance(phase, bool) else phase.upper()
        entered = {"TRAIN": "train_eval", "VALID": "valid", "TEST": "test"}
        if name not in entered:
            raise ConfigError(f"phase {phase!r}: it must be one of {', '.join(entered)}.")
        getattr(tproblem, f"{entered[name]}_init_op")()
        losses, accuracies = [], []
        while True:
            try:
                loss, accuracy = tproblem.get_batch_loss_and_accuracy()
            except StopIteration:
                break
            losses.append(float(loss))
            accuracies.append(accuracy)
        found = sum(losses) / len(losses), sum(accuracies) / len(accuracies)
        print(f"{name}: loss {found[0]:g}, acc {found[1]:f}")
        return found


class StandardRunner(PTRunner):
    """DeepOBS's runner: a constant learning rate, or one that changes at given epochs.

    Args:
        optimizer_class, hyperparameter_names, hyperparams: as for `PTRunner`.

    >>> runner = StandardRunner(torch.optim.SGD, [{"name": "momentum", "type": float, "default": 0.0}])
    >>> how = {"batch_size": 128, "num_epochs": 1, "learning_rate": 0.01, "momentum": 0.9, "no_logs": True}
    >>> output = runner.run("quadratic_deep", **how)  # doctest: +ELLIPSIS
    ***...
    >>> len(output["test_losses"]), output["hyperparams"]
    (2, {'momentum': 0.9})
    """


class LearningRateScheduleRunner(StandardRunner):
    """DeepOBS 1.2's name of the runner with `lr_sched_epochs` and `lr_sched_factors`.

    Args:
        optimizer_class, hyperparameter_names, hyperparams: as for `PTRunner`.
    """


def _schedule(pairs: Mapping[int, float] | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """A schedule as rates from epochs on, as factors of the base rate, which is that from epoch 0 on.

    Raises:
        ConfigError: there is no base rate, or it is 0.
    """
    if not pairs:
        return {}
    base = pairs.get(0, given.get("learning_rate"))
    later = {epoch: rate for epoch, rate in sorted(pairs.items()) if epoch}
    if base is None:
        raise ConfigError("lr_schedule needs the learning rate that it starts from.")
    if base == 0:
        raise ConfigError("lr_schedule starts from the learning rate 0, of which no other rate is a multiple.")
    factors = [rate / base for rate in later.values()]
    return {"learning_rate": base, "lr_sched_epochs": [*later], "lr_sched_factors": factors}


def _check_dtype() -> None:
    """A run of the core is in float32.

    Raises:
        ConfigError: `config` asks for another dtype.
    """
    if config.get_dtype() != torch.float32:
        raise ConfigError(
            f"config dtype {config.get_dtype()}: a runner's run is in float32. config.set_dtype(torch.float32), or "
            "write the loop over the loaders yourself: test problems have both."
        )


def _with_instance(given: dict[str, Any]) -> dict[str, Any]:
    """Adds the batch size and the weight decay of a test problem that is an instance.

    Raises:
        ConfigError: others are given.
    """
    tproblem = given.get("testproblem")
    if not isinstance(tproblem, TestProblem):
        return given
    kept = {"batch_size": tproblem.batch_size, "weight_decay": tproblem.weight_decay}
    for name, value in kept.items():
        if given.get(name, value) != value:
            raise ConfigError(
                f"{name} {given[name]!r}: the test problem was made with {value!r}. Leave it out, or give the class "
                f"{type(tproblem).__name__} instead of an instance."
            )
    return given | {name: value for name, value in kept.items() if value is not None}
