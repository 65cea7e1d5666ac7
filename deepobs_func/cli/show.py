"""`deepobs list` and `deepobs optimizers`: what there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from deepobs_func import datasets, optimizers, problems
from deepobs_func.cli.data import data_option
from deepobs_func.cli.printing import as_json_option, print_json, print_table
from deepobs_func.cli.types import complete
from deepobs_func.datasets.at_hand import at_hand
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.optimizers.hyperparameters import Hyperparameter, Search
from deepobs_func.optimizers.spec import OptimizerSpec
from deepobs_func.probes.catalog import PRESETS, QUANTITIES
from deepobs_func.study.axes import problem_sets


def _complete_set(ctx: click.Context, param: click.Parameter, incomplete: str) -> Any:
    return complete(problem_sets())(ctx, param, incomplete)


@click.command("list")
@click.option("--set", "which", metavar="NAME", help="The problems of a set alone.", shell_complete=_complete_set)
@data_option
@as_json_option
def list_command(which: str | None, data: str, as_json: bool) -> None:
    """List the test problems, the data sets, the optimizers and the quantities that can be tracked.

    Sets of problems are those of DeepOBS (small, large; deepobs for all of its problems), modern (problems of this
    project's own), all, and one for each data set, such as mnist. The column `at hand` says whether the files are in
    the data folder; deepobs data has more.
    """
    sets = problem_sets()
    if which is not None and which not in sets:
        raise ConfigError(unknown("set of problems", which, sets))
    names = problems.names() if which is None else sets[which]
    here = {name: at_hand(datasets.spec(name), data).state for name in datasets.names()}
    if as_json:
        print_json(_listing(names, here, sets) if which is None else [_problem_facts(name, here) for name in names])
        return
    titles = ("problem", "data set", "at hand", "measure", "parameters", "epochs", "batch size", "weight decay")
    print_table(titles, (_problem(name, here) for name in names), numbers=4)
    click.echo("* chosen here; nothing is published")
    if which is None:
        _print_others(here, sets)


def _print_others(here: Mapping[str, str], sets: Mapping[str, tuple[str, ...]]) -> None:
    """All that is listed after the problems."""
    click.echo()
    print_table(("set", "problems (deepobs list --set NAME)"), ((name, _some(sets[name])) for name in sets))
    click.echo()
    print_table(("data set", "", "at hand", "training", "test"), (_dataset(n, here) for n in here), numbers=2)
    click.echo()
    _print_optimizers()
    click.echo()
    economy = PRESETS["economy"]
    quantities = ((each.name, "yes" if each.name in economy else "", each.summary) for each in QUANTITIES.values())
    print_table(("quantity", "in preset economy", ""), quantities)
    click.echo(f"NAME/layer for each layer: {', '.join(each.name for each in QUANTITIES.values() if each.by_layer)}")


@click.command("optimizers")
@click.argument("name", required=False, shell_complete=complete(optimizers.FUNCTIONAL))
@as_json_option
def optimizers_command(name: str | None, as_json: bool) -> None:
    """List the optimizers, or show one: its hyperparameters, what they may be, and where tuning looks for them."""
    if name is not None:
        spec = optimizers.FUNCTIONAL.find(name)
        if as_json:
            print_json(_optimizer_facts(spec))
        else:
            _show_optimizer(spec)
    elif as_json:
        print_json([_optimizer_facts(spec) for spec in optimizers.FUNCTIONAL.values()])
    else:
        _print_optimizers()


def _print_optimizers() -> None:
    rows = [(each.name, _hyperparameters(each), each.summary) for each in optimizers.FUNCTIONAL.values()]
    rows.append(("torch.optim.X", "those of the class", "any torch.optim.Optimizer class, by import path"))
    print_table(("optimizer", "hyperparameters beside --lr", ""), rows)


def _show_optimizer(spec: OptimizerSpec) -> None:
    """One optimizer, in full."""
    click.echo(f"{spec.name}: {spec.summary}\n")
    lr = ("--lr", "required" if spec.lr is None else f"{spec.lr:g}", "positive", _search(spec.lr_search))
    rows = [(f"--{name}", _shown(each.default), str(each.kind), _search(each.search)) for name, each in _all(spec)]
    print_table(("hyperparameter", "default", "what it may be", "where tuning looks"), [lr, *rows])
    if spec.lr is not None:
        click.echo(f"\ndeepobs run asks for --lr; the default above is that of deepobs tune: {spec.lr_source}.")
    click.echo(f"In Python: deepobs_func.optimizers.{spec.name}; {spec.make}")


def _all(spec: OptimizerSpec) -> list[tuple[str, Hyperparameter]]:
    return list(spec.hyperparameters.items())


def _search(search: Search | None) -> str:
    return "" if search is None else f"{search.word} {search.low:g} to {search.high:g}"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _hyperparameters(spec: OptimizerSpec) -> str:
    return " ".join(f"{name}={_shown(value)}" for name, value in spec.defaults.items())


def _optimizer_facts(spec: OptimizerSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "summary": spec.summary,
        "make": spec.make,
        "lr": spec.lr,
        "lr_source": spec.lr_source,
        "lr_search": spec.lr_search._asdict(),
        "hyperparameters": {
            name: {
                "default": each.default,
                "allowed": str(each.kind),
                "search": each.search._asdict() if each.search else None,
            }
            for name, each in _all(spec)
        },
    }


def _listing(
    names: list[str] | tuple[str, ...], here: Mapping[str, str], sets: Mapping[str, tuple[str, ...]]
) -> dict[str, Any]:
    """All of it, as plain data."""
    return {
        "problems": [_problem_facts(name, here) for name in names],
        "sets": sets,
        "data_sets": [_dataset_facts(name, here) for name in here],
        "optimizers": [_optimizer_facts(spec) for spec in optimizers.FUNCTIONAL.values()],
        "quantities": [
            {"name": each.name, "summary": each.summary, "presets": [p for p in PRESETS if each.name in PRESETS[p]]}
            for each in QUANTITIES.values()
        ],
    }


def _problem(name: str, here: Mapping[str, str]) -> tuple[str, ...]:
    spec = problems.spec_of(name)
    chosen = "*" if spec.defaults_chosen_here else ""
    decay = "-" if spec.weight_decay is None else f"{spec.weight_decay:g}"
    defaults = (f"{spec.epochs}{chosen}", f"{spec.batch_size}{chosen}", decay)
    title, measure = datasets.spec(spec.dataset).title, "accuracy" if spec.accuracy else "loss"
    return (name, title, here[spec.dataset], measure, f"{spec.parameters:,}", *defaults)


def _problem_facts(name: str, here: Mapping[str, str]) -> dict[str, Any]:
    spec = problems.spec_of(name)
    fields = ("name", "dataset", "parameters", "epochs", "batch_size", "weight_decay", "accuracy", "separable")
    chosen = {"defaults_chosen_here": spec.defaults_chosen_here, "data_at_hand": here[spec.dataset]}
    return {field: getattr(spec, field) for field in fields} | chosen


def _dataset(name: str, here: Mapping[str, str]) -> tuple[str, ...]:
    spec = datasets.spec(name)
    return (name, spec.title, here[name], f"{spec.train_size:,}", f"{spec.test_size:,}")


def _dataset_facts(name: str, here: Mapping[str, str]) -> dict[str, Any]:
    spec = datasets.spec(name)
    fields = ("name", "title", "train_size", "test_size", "shape", "num_classes")
    return {field: getattr(spec, field) for field in fields} | {"at_hand": here[name]}


def _some(names: tuple[str, ...]) -> str:
    """A few names, and how many more there are."""
    shown, rest = ", ".join(names[:4]), len(names) - 4
    return f"{shown}, and {rest} more" if rest > 0 else shown
