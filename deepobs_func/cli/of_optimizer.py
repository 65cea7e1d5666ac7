"""Commands of one optimizer, which take an option for each of its hyperparameters."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import click

from deepobs_func import optimizers
from deepobs_func.cli.types import Value
from deepobs_func.errors import ConfigError
from deepobs_func.runner.config import is_path, unknown_optimizer

_PREFIX = "opt_"  # of the names under which hyperparameters are parsed


class OptimizerCommand(click.Command):
    """A command whose first argument is an optimizer, and whose options are also the optimizer's hyperparameters."""

    def named_optimizer(self, args: Sequence[str]) -> str | None:
        """The optimizer of a command line; None where it names none."""
        return args[0] if args and not args[0].startswith("-") else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Finds the optimizer first, since it decides which options there are."""
        optimizer = self.named_optimizer(args)
        with contextlib.suppress(*(ConfigError,) * ctx.resilient_parsing):  # for completion, which has no errors
            ctx.meta["hyperparameters"] = _hyperparameter_options(optimizer, self.params, args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            taken = ", ".join(_hyperparameters(optimizer)) or "none beside --lr"
            known = f"Hyperparameters of {optimizer}: {taken}."
            if optimizer is None:
                known = "Is it a hyperparameter? Name the optimizer; where it is an argument, before all options."
            raise click.NoSuchOption(
                error.option_name,
                f"No such option {error.option_name!r}. {known}",
                error.possibilities,
                ctx,
            ) from error

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The fixed options and those of the optimizer."""
        return [*super().get_params(ctx), *ctx.meta.get("hyperparameters", [])]


def taken_hyperparams(options: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters that were given, taken out of a command's options."""
    given = {name: options.pop(name) for name in list(options) if name.startswith(_PREFIX)}
    return {name.removeprefix(_PREFIX): value for name, value in given.items() if value is not None}


def _hyperparameters(optimizer: str | None, args: Sequence[str] = ()) -> Mapping[str, Any]:
    """By name, with their defaults; of an optimizer that takes any, also those that are given as `--opt.NAME`."""
    if optimizer is None:
        return {}
    if optimizer in optimizers.FUNCTIONAL:
        return optimizers.FUNCTIONAL[optimizer].defaults
    if not is_path(optimizer):
        raise ConfigError(unknown_optimizer(optimizer))
    from deepobs_func.imports import load_object
    from deepobs_func.optimizers.base import Optimizer
    from deepobs_func.optimizers.factories import passes_on
    from deepobs_func.runner.optimizing import factory_defaults

    found = load_object(optimizer, "optimizer")
    if not callable(found) or isinstance(found, Optimizer):
        return {}
    given = [arg.partition("=")[0].removeprefix("--opt.") for arg in args if arg.startswith("--opt.")]
    return (dict.fromkeys(given) if passes_on(found) else {}) | factory_defaults(found)


def _hyperparameter_options(
    optimizer: str | None, fixed: Sequence[click.Parameter], args: Sequence[str]
) -> list[click.Option]:
    """One option for each hyperparameter, `--NAME` and `--opt.NAME`; only the latter where a flag has the name."""
    taken = {name.replace("-", "_") for parameter in fixed for name in parameter.opts}
    options = []
    for name, default in _hyperparameters(optimizer, args).items():
        flags = [f"--opt.{name}"] if f"__{name}" in taken else [f"--{name}", f"--opt.{name}"]
        shown = "required" if default is inspect.Parameter.empty else f"default: {default}"
        help = f"Hyperparameter of {optimizer}; {shown}."
        options.append(click.Option([*flags, f"{_PREFIX}{name}"], type=Value(default), help=help, metavar="VALUE"))
    return options
