"""Every problem learns: five epochs on a cut of its data, and the loss on it falls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepobs_func import problems
from deepobs_func.runner import RunConfig
from tests.runner.small import recorded

EPOCHS = 5
LARGE = {  # examples in training and test, batch size; nets that see 224 x 224 pixels, on a few pictures
    "imagenet_inception": (8, 4, 4),
    "imagenet_vgg": (4, 2, 2),
    "cifar10_vgg": (4, 2, 2),
    "cifar100_vgg": (4, 2, 2),
    "cifar10_3c3d": (64, 32, 16),
    "cifar100_3c3d": (64, 32, 16),
    "cifar100_allcnnc": (64, 32, 16),
    "cifar100_wrn": (128, 64, 8),  # many steps, after which the running moments of batch norm are the data's
    "svhn_wrn": (128, 64, 8),
    "cifar10_resnet18_gn": (8, 4, 4),
    "cifar10_resnet18": (12, 4, 4),
    "cifar100_vit": (24, 8, 8),
    "mnist_convnext": (64, 32, 16),
    "tolstoi_gpt": (2, 2, 2),
    "svhn": (64, 32, 16),
}
RATES = {
    "quadratic_deep": 1e-2,
    "two_d": 1e-6,
    "tolstoi_gpt": 1e-3,
    "tolstoi": 1e-2,
    "cifar100_wrn": 1e-4,
    "cifar10_resnet18": 1e-4,
}


def sizes(name: str) -> tuple[int, int, int]:
    """Of the cut: training examples, test examples, batch size."""
    family = next((family for family in LARGE if name.startswith(family)), None)
    return LARGE.get(family or "", (512, 128, 64))


@pytest.mark.large
@pytest.mark.parametrize("name", problems.names())
def test_the_loss_falls(name: str) -> None:
    problem = problems.get(name)
    train, test, batch = sizes(name)
    if problem.dataset.generated:
        cut = {}
    elif problem.dataset.sequence_length:
        cut = {"train_size": 8 * 50 * batch + 1, "test_size": 2 * 50 * batch + 1, "train_eval_size": 8 * 50 * batch + 1}
    else:
        cut = {"train_size": train, "test_size": test, "file_sizes": ()}
    rate = next((rate for family, rate in RATES.items() if name.startswith(family)), 1e-3)
    made = RunConfig(
        name,
        "sgd" if name.startswith("two_d") or name == "quadratic_deep" else "adam",
        rate,
        epochs=EPOCHS,
        batch_size=batch,
        data="synthetic",
        output_dir=None,
        compile="off",
        memory_format="contiguous",
        workers=0,
    )
    record = recorded(made, replace(problem, dataset=replace(problem.dataset, **cut)))
    assert record.status == "finished"
    assert record.train_losses[-1] < record.train_losses[0]
