"""`deepobs describe`: one problem: its data, its net layer by layer, what is published, what differs from DeepOBS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from deepobs_func import datasets, problems
from deepobs_func.cli.data import data_option
from deepobs_func.cli.printing import as_json_option, print_json, print_table
from deepobs_func.cli.types import complete
from deepobs_func.datasets.at_hand import at_hand
from deepobs_func.runner.config import is_path

if TYPE_CHECKING:
    from deepobs_func.problems import Problem


@click.command("describe")
@click.argument("problem", shell_complete=complete(problems.REGISTRY))
@data_option
@as_json_option
def describe_command(problem: str, data: str, as_json: bool) -> None:
    """Describe a test problem: data, layers, shapes, initial distributions, deviations, published results.

    PROBLEM is a name (deepobs list) or the import path of a problem of your own.
    """
    if not is_path(problem):
        problems.spec_of(problem)  # a wrong name is said before torch is imported
    from deepobs_func.runner.plan import problem_at

    found = problem_at(problem) if is_path(problem) else problems.get(problem)
    facts = _facts(found, data)
    if as_json:
        print_json(facts)
    else:
        _show(facts)


def _facts(problem: Problem, data: str) -> dict[str, Any]:
    """All that is shown, as plain data."""
    spec = problem.dataset
    is_registered = spec.name in datasets.names() and spec == datasets.spec(spec.name)
    return {
        "name": problem.name,
        "data": {
            "name": spec.name,
            "title": spec.title,
            "at_hand": at_hand(spec, data).state if is_registered else "its own",
            "training": spec.train_size,
            "test": spec.test_size,
            "example": example_shape(spec.shape),
            "classes": spec.num_classes,
        },
        "epochs": problem.epochs,
        "batch_size": problem.batch_size,
        "weight_decay": problem.weight_decay,
        "regularized": list(problem.regularized),
        "accuracy": problem.measure.correct is not None,
        "separable": problem.separable,
        "parameters": sum(shape.numel() for shape in problem.description.shapes.values()),
        "tensors": _tensors(problem),
        "noise": {path: type(layer).__name__ for path, layer in problem.noises.items()},
        "published": _published(problem.name),
        "recipe": _recipe(problem),
        "deviations": [deviation._asdict() for deviation in problem.deviations],
    }


def example_shape(shape: Any) -> Any:
    """The shape of an example as plain data; of several inputs a list or a mapping of them."""
    if isinstance(shape, Mapping):
        return {name: example_shape(each) for name, each in shape.items()}
    return [example_shape(each) if isinstance(each, tuple) else each for each in shape]


def _tensors(problem: Problem) -> list[dict[str, Any]]:
    """Every parameter and moment with its layer, shape and initial distribution, in order."""
    trained = problem.description.shapes
    found = []
    for name, tensor in (*problem.net.named_parameters(), *problem.net.named_buffers()):
        path, _, leaf = name.rpartition(".")
        layer = problem.net.get_submodule(path)
        laws = getattr(layer, "initializers", {})
        heard = problem.description.layers.get(path)
        found.append(
            {
                "name": name,
                "layer": type(layer).__name__,
                "shape": list(tensor.shape),
                "initial": laws[leaf].law if leaf in laws else "the module's own value",
                "trained": name in trained,
                "output": None if heard is None else list(heard[1]),
            }
        )
    return found


def _recipe(problem: Problem) -> dict[str, Any] | None:
    """Settings to train one of the registered problems with, where its row has any."""
    recipe = problems.spec_of(problem.name).recipe if problem.name in problems.REGISTRY else None
    return None if recipe is None else {**recipe._asdict(), "options": recipe.options}


def _published(name: str) -> dict[str, Any] | None:
    """What DeepOBS published of a problem; None where that is nothing."""
    from deepobs_func.analysis import published

    facts = published.facts(name)
    if facts is None:
        return None
    fields = ("optimizer", "lr", "hyperparams", "seeds", "final_mean", "final_sd", "speed")
    runs = [{field: getattr(each, field) for field in fields} for each in published.baselines(name)]
    return {"quantity": facts.quantity, "convergence_performance": facts.convergence_performance, "runs": runs}


def _show(facts: dict[str, Any]) -> None:
    """The same for people."""
    data, decay = facts["data"], facts["weight_decay"]
    classes = "" if data["classes"] is None else f", {data['classes']} classes"
    penalty = "none" if decay is None else f"{decay:g} on {len(facts['regularized'])} kernels"
    coupled = "" if facts["separable"] else "; batch norm couples the examples of a batch"
    click.secho(facts["name"], bold=True)
    click.echo(
        f"data: {data['title']}, {data['training']:,} + {data['test']:,} of shape {_shape(data['example'])}{classes}"
    )
    click.echo(f"at hand: {data['at_hand']}")
    click.echo(f"run: {facts['epochs']} epochs, batch size {facts['batch_size']}, L2 penalty {penalty}")
    click.echo(f"judged by: {'accuracy' if facts['accuracy'] else 'loss'}{coupled}")
    for path, kind in facts["noise"].items():
        click.echo(f"noise: {kind} at {path}")
    click.echo(f"parameters: {facts['parameters']:,}\n")
    rows = [
        (each["name"], each["layer"], _shape(each["shape"]), each["initial"], _shape(each["output"]))
        for each in facts["tensors"]
    ]
    print_table(("tensor", "layer", "shape", "initially", "output of the layer"), rows)
    _show_published(facts["published"])
    if facts["recipe"]:
        click.echo(f"\nSettings to start from: deepobs run {facts['name']} {facts['recipe']['options']}")
        click.echo(f"({facts['recipe']['source']})")
    click.echo("\nWhat differs from DeepOBS 1.1.2:" if facts["deviations"] else "")
    for each in facts["deviations"]:
        click.echo(f"* {each['quirk']}: {each['default']}; under --protocol deepobs-1.1.2 {each['deepobs']}")


def _show_published(published: dict[str, Any] | None) -> None:
    if published is None:
        click.echo("\nNothing is published.")
        return
    quantity = published["quantity"].replace("_", " ")
    click.echo(f"\nPublished ({quantity}, convergence performance {published['convergence_performance']:.4g}):")
    rows = [
        (
            each["optimizer"],
            f"{each['lr']:.3g}",
            " ".join(f"{name}={value:g}" for name, value in each["hyperparams"].items()),
            f"{each['final_mean']:.4g} ± {each['final_sd']:.2g}",
            f"{each['speed']:.1f}",
            str(each["seeds"]),
        )
        for each in published["runs"]
    ]
    print_table(("optimizer", "lr", "", f"final {quantity}", "epochs to it", "seeds"), rows, numbers=2)


def _shape(sizes: Any) -> str:
    """A shape; of several inputs, each by its keyword or in its place."""
    if isinstance(sizes, Mapping):
        return ", ".join(f"{name} {_shape(each)}" for name, each in sizes.items())
    if sizes and isinstance(sizes[0], list):
        return ", ".join(map(_shape, sizes))
    return "" if sizes is None else "x".join(map(str, sizes)) or "scalar"
