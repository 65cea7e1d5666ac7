"""Problems on streamed data: pictures from a small folder, and any resident set read batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import problems, random
from deepobs_func.datasets import DatasetSpec
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import RunConfig
from tests.datasets.imagenet_files import tiny_spec, write_images

TRAIN, TEST, BATCH = 18, 7, 4  # 4 steps and 1 batch for each evaluation, with examples left over


def pictures(**changes: Any) -> Problem:
    """Softmax regression on means over 32 x 32 pixels; the folder is that of `write_pictures`."""
    torch.manual_seed(0)
    return problems.from_module(
        nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.Linear(3 * 7 * 7, 4)),
        partial(F.cross_entropy, reduction="none"),
        replace(tiny_spec(TRAIN, TEST), **changes),
        correct=lambda logits, y: logits.argmax(1) == y,
        epochs=2,
        batch_size=BATCH,
        name="pictures",
    )


def write_pictures(folder: Path) -> Path:
    return write_images(folder, tiny_spec(TRAIN, TEST))


def config(folder: Path | str, **changes: Any) -> RunConfig:
    """A run on the pictures that writes nothing."""
    values = {"problem": "pictures", "optimizer": "sgd", "lr": 0.1, "data": str(folder), "output_dir": None}
    return RunConfig(**({"workers": 0, "train_log_interval": 1} | values | changes))


def as_stream(problem: Problem, delay: float = 0.0, seen: Callable[[Tensor], None] | None = None) -> Problem:
    """The problem with the same data, read batch by batch; what is read takes a while and is shown."""
    spec = problem.dataset

    def reader(whole: Callable[[str], Any]) -> Callable[..., Any]:
        def read(
            spec: DatasetSpec, folder: Any, split: str, rows: Tensor, key: random.Key, *, augment: bool, workers: int
        ) -> Iterator[tuple[Tensor, Tensor]]:
            x, y = whole(split)
            for batch in rows.numpy():
                time.sleep(delay)
                if seen is not None:
                    seen(batch)
                yield torch.from_numpy(x[batch]), torch.from_numpy(y[batch])

        return read

    functions = {"reader": reader(lambda split: spec.function("reader")(spec, None, split))}
    if spec.stand_in:
        functions["stand_in"] = reader(lambda split: spec.function("stand_in")(spec, split))
    return replace(problem, dataset=replace(spec, streamed=True, **functions))
