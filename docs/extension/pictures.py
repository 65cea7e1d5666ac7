"""Pictures of the catalogue: a batch of each data set, and learning curves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from deepobs_func import RunConfig, problems, random, run
from deepobs_func.analysis import figures, published
from deepobs_func.analysis.figures import paths, style
from deepobs_func.datasets import loading
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.problems import ProblemSpec
from deepobs_func.runner import Execution

FOLDER = Path(os.environ.get("DEEPOBS_DATA", "data_deepobs"))
RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "curves.json"  # of `benchmarks.make_curves`
SHOWN = 16
EPOCHS = 5


def is_at_hand(spec: DatasetSpec) -> bool:
    """Whether the data are generated, or lie in the folder of `$DEEPOBS_DATA`; nothing is downloaded."""
    return spec.generated or loading.locate(spec, FOLDER) is not None


def once(path: Path, draw: Callable[[], Any]) -> str:
    """Draws a picture unless it is there, and returns its name."""
    if not path.exists():
        figures.save(draw(), path)
    return path.name


def batch(spec: DatasetSpec) -> Any:
    """A few examples of the training set; of the stand-in, marked, where no data are at hand."""
    with style.style():
        if len(spec.shape) == 3:
            return _images(spec)
        return _text(spec) if spec.sequence_length else _points(spec)


def _stored(spec: DatasetSpec, size: int = SHOWN) -> tuple[Any, Any, bool]:
    """The first examples of the training set as they are stored, and whether they are a stand-in."""
    where = FOLDER if is_at_hand(spec) else loading.SYNTHETIC
    if spec.streamed:
        rows = torch.arange(size)[None]
        x, y = next(loading.stream(spec, where, "train", rows, random.key(0), augment=False))
        return x, y, where == loading.SYNTHETIC
    data = loading.load(spec, where)
    return data.train.x[:size], data.train.y[:size], data.synthetic


def _images(spec: DatasetSpec) -> Any:
    x, y, synthetic = _stored(spec)
    figure, axes = style.grid(SHOWN, columns=8, width=0.9, height=1.1)
    for axis, image, label in zip(axes, x.float(), y.tolist(), strict=True):
        low, high = image.min(), image.max()
        shown = ((image - low) / (high - low).clamp(min=1e-6)).permute(1, 2, 0)
        axis.imshow(shown.squeeze(-1).numpy(), cmap="gray")
        axis.set_title(str(label))
        axis.set_axis_off()
    return style.mark(figure, synthetic)


def _text(spec: DatasetSpec) -> Any:
    length = spec.sequence_length or 0
    x, _, synthetic = _stored(spec, length)
    figure, (axis,) = style.grid(1, width=7, height=1.2)
    axis.step(range(length), x.reshape(-1)[:length].tolist(), where="mid")
    axis.set(xlabel="position", ylabel="symbol")
    return style.mark(figure, synthetic)


def _points(spec: DatasetSpec) -> Any:
    data = loading.load(spec, FOLDER)
    figure, (axis,) = style.grid(1, width=4.5)
    values = data.train.x.reshape(len(data.train.x), -1)
    if values.shape[1] > 1:
        axis.imshow(values[:SHOWN].numpy(), aspect="auto", cmap="RdBu")
        axis.set(xlabel="coordinate", ylabel="example")
        axis.grid(False)
    else:
        axis.hist(values[:, 0].numpy(), bins=40, color=style.COLOURS[0])
        axis.set(xlabel="x, the noise of an example", ylabel="examples")
    return figure


def published_curves(problem: str) -> Any:
    """The published curves of a problem: mean and standard deviation of the ten seeds of each optimizer."""
    with style.style():
        figure, (axis,) = style.grid(1, width=5)
        for baseline in published.baselines(problem):
            mean, sd = torch.tensor(baseline.curve_mean), torch.tensor(baseline.curve_sd)
            look = figures.styles([baseline.optimizer])[baseline.optimizer].line
            axis.plot(mean, label=baseline.optimizer, **look)
            axis.fill_between(range(len(mean)), mean - sd, mean + sd, color=look["color"], alpha=0.2, linewidth=0)
        about = published.facts(problem)
        assert about is not None
        axis.axhline(about.convergence_performance, color="black", linestyle=":", linewidth=1)
        axis.set(xlabel="epoch", ylabel=about.quantity.replace("_", " "))
        if about.quantity == "test_loss":
            axis.set_yscale("log")
        axis.legend()
    return figure


def short_curve(spec: ProblemSpec) -> Any:
    """The losses of a few epochs of Adam on generated data, run now."""
    config = RunConfig(spec.name, "adam", lr=1e-2, epochs=EPOCHS, output_dir=None)
    record = run(config, execution=Execution()).record
    return _losses(record.train_losses, record.test_losses, f"adam, lr {config.lr:g}, seed {config.seed}")


def recorded() -> dict[str, dict[str, Any]]:
    """The short runs on real data that come with the package, by problem."""
    found: dict[str, dict[str, Any]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    return found


def recorded_curve(found: dict[str, Any]) -> Any:
    """The losses of a recorded run."""
    title = f"{found['optimizer']}, lr {found['lr']:g}, seed {found['seed']}"
    return _losses(found["train_losses"], found["test_losses"], title)


def _losses(train: list[float], test: list[float], title: str) -> Any:
    with style.style():
        figure, (axis,) = style.grid(1, width=5)
        axis.plot(train, label="training set")
        axis.plot(test, label="test set", linestyle="--")
        axis.set(xlabel="epoch", ylabel="loss", title=title)
        axis.legend()
    return figure


def surface(problem: str) -> Any:
    """The two-dimensional function of a problem, where a run starts (a circle), and its minimum (a star)."""
    start = torch.stack(list(problems.get(problem).init(seed=0)[0].values())).reshape(1, 2).double().numpy()
    with style.style():
        figure, (axis,) = style.grid(1, width=5, height=3.5)
        u, v, height = paths.surface(problem, [start])
        axis.contourf(u, v, height, levels=24, cmap="Greys", alpha=0.55)
        axis.plot(*start[0], "o", color=style.COLOURS[0])
        axis.plot(*paths.MINIMA[problem][0], "*", markersize=11, color=style.COLOURS[1])
        axis.set(xlabel="u", ylabel="v")
    return figure
