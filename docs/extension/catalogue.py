"""Pages of the catalogue: one for each problem of the registry."""

from __future__ import annotations

from pathlib import Path

from deepobs_func import datasets, problems
from deepobs_func.analysis import published
from deepobs_func.problems import ProblemSpec
from extension import pictures


def pages(folder: Path) -> dict[str, str]:
    """The text of each page, by its path in the folder of the documentation; pictures are drawn into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = [problems.spec_of(name) for name in problems.names()]
    found = {f"catalogue/{spec.name}.md": page(spec, folder) for spec in specs}
    return found | {"catalogue/index.md": index(specs)}


def index(specs: list[ProblemSpec]) -> str:
    """The list of all problems."""
    lines = ["# Catalogue of problems", "", "| problem | data set | parameters | published runs |", "|---|---|---|---|"]
    for spec in specs:
        there = "yes" if published.facts(spec.name) else ""
        title = datasets.spec(spec.dataset).title
        lines.append(f"| [{spec.name}]({spec.name}.md) | {title} | {spec.parameters:,} | {there} |")
    names = "\n".join(spec.name for spec in specs)
    return "\n".join(lines) + f"\n\n:::{{toctree}}\n:hidden:\n\n{names}\n:::\n"


def page(spec: ProblemSpec, folder: Path) -> str:
    """The page of a problem."""
    parts = [
        f"# {spec.name}",
        facts(spec),
        "## A batch",
        batch(spec, folder),
        "## Parameters",
        parameters(spec),
        "## Learning curve",
        curve(spec, folder),
        "## Published results",
        results(spec),
        *differences(spec),
    ]
    return "\n\n".join(parts) + "\n"


def facts(spec: ProblemSpec) -> str:
    """What the registry says."""
    data, chosen = datasets.spec(spec.dataset), " (chosen here)" if spec.defaults_chosen_here else ""
    rows = {
        "data set": f"{data.title}, {data.train_size:,} training and {data.test_size:,} test "
        + ("symbols" if data.sequence_length else "examples"),
        "input of an example": f"`{data.shape}`",
        "classes": data.num_classes or "-",
        "net": f"`{spec.net.removeprefix('deepobs_func.')}`",
        "loss": f"`{spec.measure.removeprefix('deepobs_func.')}`",
        "parameters": f"{spec.parameters:,}",
        "epochs, batch size": f"{spec.epochs}, {spec.batch_size}{chosen}",
        "weight decay": "-" if spec.weight_decay is None else f"{spec.weight_decay:g}",
        "schedule of the authors": ", ".join(f"x {factor:g} from epoch {epoch}" for epoch, factor in spec.schedule)
        or "-",
        "judged by": "test accuracy" if spec.accuracy else "test loss",
        "settings to start from": "-" if spec.recipe is None else f"`{spec.recipe.options}` ({spec.recipe.source})",
        "an example's loss depends on it alone": "yes" if spec.separable else "no",
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])


def batch(spec: ProblemSpec, folder: Path) -> str:
    """A picture of a few examples."""
    data = datasets.spec(spec.dataset)
    if data.name == "two_d":
        name = pictures.once(folder / f"{spec.name}_surface.png", lambda: pictures.surface(spec.name))
        return f"![The function]({name})\n\nThe function without noise. A circle: where runs start; a star: a minimum."
    name = pictures.once(folder / f"batch_{data.name}.png", lambda: pictures.batch(data))
    return f"![Examples of {data.title}]({name})"


def parameters(spec: ProblemSpec) -> str:
    """The trained parameters in DeepOBS's order: name, shape, how many, and what draws them."""
    description = problems.get(spec.name).description
    modules = dict(description.net.named_modules())
    lines = ["| parameter | shape | count | layer |", "|---|---|---|---|"]
    for name, shape in description.shapes.items():
        kind = type(modules[name.rpartition(".")[0]]).__name__
        lines.append(f"| `{name}` | {' x '.join(map(str, shape)) or 'scalar'} | {shape.numel():,} | {kind} |")
    return "\n".join(lines)


def curve(spec: ProblemSpec, folder: Path) -> str:
    """The published curve, or a short one of ours: recorded on real data, or run now on generated ones."""
    short = pictures.recorded().get(spec.name)
    if published.facts(spec.name):
        name = pictures.once(folder / f"{spec.name}_published.svg", lambda: pictures.published_curves(spec.name))
        text = "The published runs on real data, mean and standard deviation over ten seeds. Dotted: the target."
    elif short:
        name = pictures.once(folder / f"{spec.name}_recorded.svg", lambda: pictures.recorded_curve(short))
        text = (
            f"A short run on the real data: {short['optimizer']}, learning rate {short['lr']:g}, batch size "
            f"{short['batch_size']}, {short['epochs']} epochs, seed {short['seed']}, protocol `{short['protocol']}`, "
            f"torch {short['torch']}, eager, on a CPU. Test accuracy at the end: {short['test_accuracies'][-1]:.2%}. "
            "Nothing was tuned."
        )
    elif datasets.spec(spec.dataset).generated:
        name = pictures.once(folder / f"{spec.name}_curve.svg", lambda: pictures.short_curve(spec))
        text = f"{pictures.EPOCHS} epochs, run when this page was made."
    else:
        return "Nothing is published of this problem, and no run on its real data comes with the package."
    return f"![Learning curve]({name})\n\n{text}"


def results(spec: ProblemSpec) -> str:
    """The published results."""
    about = published.facts(spec.name)
    if about is None:
        return "None."
    lines = [
        f"By {about.quantity.replace('_', ' ')}; the target is {about.convergence_performance:.4g}.",
        "",
        "| optimizer | learning rate | last epoch, ten seeds | epochs to the target |",
        "|---|---|---|---|",
    ]
    for each in published.baselines(spec.name):
        final = f"{each.final_mean:.4g} ± {each.final_sd:.2g}"
        lines.append(f"| {each.optimizer} | {each.lr:.3g} | {final} | {each.speed:.1f} |")
    return "\n".join(lines)


def differences(spec: ProblemSpec) -> list[str]:
    """The section on DeepOBS; of a problem that is not DeepOBS's, what its protocol does to it."""
    if spec.name in problems.SETS["deepobs"]:
        return ["## Deviations from DeepOBS 1.1.2", deviations(spec)]
    return ["## Protocols", protocols(spec)]


def protocols(spec: ProblemSpec) -> str:
    """What the protocol `deepobs-1.1.2` changes for a problem that DeepOBS does not have."""
    data, changes = datasets.spec(spec.dataset), ["an objective that is not finite does not end a run"]
    if data.shuffle:
        augmented = ", augmented," if data.augment else ""
        changes.insert(0, f"the training set is evaluated on the head of the training stream{augmented}")
        files = "the files come in a new order every epoch, each with its own fixed order"
        changes.insert(0, files if data.file_sizes else "the mini-batches come in one fixed order a seed")
    return (
        "DeepOBS does not have this problem, so there is nothing to deviate from. `--protocol deepobs-1.1.2` runs it "
        f"as DeepOBS runs its own: {'; '.join(changes)}."
    )


def deviations(spec: ProblemSpec) -> str:
    """What differs from the reference."""
    if not spec.deviations:
        return "None."
    lines = ["| quirk of 1.1.2 | protocol `default` | protocol `deepobs-1.1.2` |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {each.quirk} | {each.default} | {each.deepobs} |" for each in spec.deviations)])
