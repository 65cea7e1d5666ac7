"""The arguments of a run: those of the caller, and from the command line those that the caller left out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deepobs_func import problems
from deepobs_func.errors import ConfigError, unknown

Declared = Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]] | None
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
_PACKAGE = __name__.rpartition(".")[0]
_PREFIX = "opt."


@dataclass(frozen=True)
class Hyperparameter:
    """What a runner's caller declares of a hyperparameter.

    Attributes:
        type: turns a word of the command line into its value.
        default: its value where none is given.
        has_default: whether there is one.
    """

    type: Callable[[str], Any]
    default: Any = None
    has_default: bool = False

    def value(self, key: str, given: Any) -> Any:
        """What was given; a text as it is read on the command line.

        Args:
            key: of the hyperparameter, for the message.
            given: its value.

        Raises:
            ConfigError: the text is not of the type.
        """
        try:
            return self.type(given) if isinstance(given, str) else given
        except (ValueError, TypeError, argparse.ArgumentTypeError) as error:
            raise ConfigError(f"{key} {given!r} is not of the type that is declared: {error}.") from error


def key_of(name: str) -> str:
    """The key of a hyperparameter among the arguments of a run: its name, or `opt.NAME` where an argument has that.

    >>> key_of("momentum"), key_of("weight_decay")
    ('momentum', 'opt.weight_decay')
    """
    return f"{_PREFIX}{name}" if name in NAMES and name != "learning_rate" else name


def name_of(key: str) -> str:
    """The inverse of `key_of`."""
    return key.removeprefix(_PREFIX)


def declared(hyperparams: Declared) -> dict[str, Hyperparameter]:
    """The declarations by key: of a list of `{"name", "type", "default"?}`, or of DeepOBS 1.2's mapping of names.

    Raises:
        ConfigError: one has no name or no type.
    """
    given = hyperparams or {}
    entries = given.items() if isinstance(given, Mapping) else ((each.get("name"), each) for each in given)
    found = {}
    for name, each in entries:
        if not isinstance(name, str) or not callable(each.get("type")):
            raise ConfigError(f'A hyperparameter is declared as {{"name": ..., "type": ...}}, not as {dict(each)!r}.')
        kind = flag if each["type"] is bool else each["type"]
        found[key_of(name)] = Hyperparameter(kind, each.get("default"), "default" in each)
    return found


def undeclared(name: str, value: Any) -> Hyperparameter:
    """The declaration of a hyperparameter that has none, by its value.

    Raises:
        ConfigError: the value is `"True"` or `"False"`, both of which are true.
    """
    if isinstance(value, str) and value.lower() in ("true", "false"):
        raise ConfigError(f"{name} {value!r} is a text. Give the bool {value.capitalize()}, or declare its type.")
    return Hyperparameter(type(value))


def merged(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Arguments by name; None is as good as left out.

    Raises:
        ConfigError: one is given twice, with different values.

    >>> merged([("lr", 0.1), ("momentum", None), ("lr", 0.1)])
    {'lr': 0.1}
    """
    found: dict[str, Any] = {}
    for name, value in pairs:
        if value is not None and found.setdefault(name, value) != value:
            raise ConfigError(f"{name} is given twice, as {found[name]!r} and as {value!r}. Leave one of them out.")
    return found


def flag(word: Any) -> bool:
    """A word as a bool: `bool("False")` is true, which is nobody's meaning.

    Raises:
        ArgumentTypeError: the word is neither yes nor no.

    >>> flag("False"), flag("1")
    (False, True)
    """
    text = str(word).lower()
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise argparse.ArgumentTypeError(f"{word!r}: it must be True or False.")


def given_by_main() -> bool:
    """Whether a runner was called by the script that Python was started with, so that the command line is meant."""
    frame = sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).startswith(_PACKAGE):
        frame = frame.f_back
    return frame.f_globals.get("__name__") == "__main__" and "__file__" in frame.f_globals


_FLAGS: Mapping[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "testproblem": (("testproblem",), {"help": "Name of the test problem, e.g. mnist_mlp."}),
    "weight_decay": (
        ("--weight_decay", "--wd", "--l2_reg"),
        {"type": float, "help": "Factor of the problem's L2 penalty. Default: the problem's own."},
    ),
    "batch_size": (("--batch_size", "--bs"), {"type": int, "help": "Batch size."}),
    "num_epochs": (("-N", "--num_epochs"), {"type": int, "help": "Number of epochs."}),
    "learning_rate": (("--learning_rate", "--lr"), {"type": float, "help": "Learning rate, the base of a schedule."}),
    "lr_sched_epochs": (
        ("--lr_sched_epochs",),
        {"type": int, "nargs": "+", "help": "Epochs at which the learning rate changes."},
    ),
    "lr_sched_factors": (
        ("--lr_sched_factors",),
        {"type": float, "nargs": "+", "help": "Factors of the learning rate, one for each of these epochs."},
    ),
    "random_seed": (("-r", "--random_seed"), {"type": int, "help": "Random seed. Default: 42."}),
    "data_dir": (("--data_dir",), {"help": "The data folder."}),
    "output_dir": (("--output_dir",), {"help": "The results tree. Default: results."}),
    "train_log_interval": (
        ("--train_log_interval",),
        {"type": int, "help": "Steps between two recorded mini-batch losses. Default: 10."},
    ),
    "print_train_iter": (
        ("--print_train_iter",),
        {"action": "store_true", "default": None, "help": "Print mini-batch losses."},
    ),
    "tf_logging": (("--tf_logging",), {"action": "store_true", "default": None, "help": "Write for TensorBoard."}),
    "no_logs": (("--no_logs",), {"action": "store_true", "default": None, "help": "Write no results."}),
}
"""By argument, what `argparse` takes."""

DEFAULTS: Mapping[str, Any] = {
    "weight_decay": None,
    "lr_sched_epochs": None,
    "lr_sched_factors": None,
    "random_seed": 42,
    "data_dir": None,
    "output_dir": "results",
    "train_log_interval": 10,
    "print_train_iter": False,
    "tf_logging": False,
    "no_logs": False,
}
REQUIRED = tuple(name for name in _FLAGS if name not in DEFAULTS)
NAMES = tuple(_FLAGS)


def completed(
    given: Mapping[str, Any],
    hyperparams: Mapping[str, Hyperparameter],
    optimizer: str,
    *,
    reads_command_line: bool,
    by_problem: bool,
    defaults: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """All arguments of a run: `NAMES`, and `hyperparams` by name.

    Args:
        given: by the caller; None is as good as left out.
        hyperparams: what the caller declares.
        optimizer: the name of the class, for the help.
        reads_command_line: whether what was left out may be there.
        by_problem: whether batch size and epochs are the problem's where they are left out, as in DeepOBS 1.2.
        defaults: the caller's, of arguments that must be given otherwise.

    Raises:
        SystemExit: an argument that must be given is nowhere, or the command line has a mistake; with code 2.
    """
    found = {name: value for name, value in given.items() if value is not None}
    may_miss = {*defaults, *(("batch_size", "num_epochs") if by_problem else ())}
    needed = [name for name in REQUIRED if name not in may_miss]
    needed += [name for name, each in hyperparams.items() if not each.has_default]
    missing = [name for name in needed if name not in found]
    if missing or reads_command_line:
        found |= _parsed([name for name in (*NAMES, *hyperparams) if name not in found], needed, hyperparams, optimizer)
    defaults = {**DEFAULTS, **defaults} | {name: each.default for name, each in hyperparams.items() if each.has_default}
    if by_problem:
        spec = problems.REGISTRY.find(found["testproblem"]) if isinstance(found["testproblem"], str) else None
        defaults |= {"batch_size": spec.batch_size, "num_epochs": spec.epochs} if spec else {}
    return defaults | found


def _parsed(
    names: Iterable[str], needed: Iterable[str], hyperparams: Mapping[str, Hyperparameter], optimizer: str
) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=f"Run {optimizer} on a test problem of DeepOBS.")
    for name in names:
        flags, how = _FLAGS.get(name) or ((f"--{name}",), {"type": hyperparams[name].type})
        more: dict[str, Any] = {"dest": name, "required": name in needed} if flags[0].startswith("-") else {}
        parser.add_argument(*flags, **how, **more)
    return {name: value for name, value in vars(parser.parse_args()).items() if value is not None}


def check_known(names: Iterable[str], hyperparams: Mapping[str, Hyperparameter], optimizer: str) -> None:
    """Refuses arguments that are neither a runner's nor declared.

    Raises:
        ConfigError: there is one; the message has the nearest name.
    """
    for name in names:
        if name not in hyperparams and name not in NAMES:
            raise ConfigError(unknown(f"argument of a run of {optimizer}:", name, (*NAMES, *hyperparams)))
