"""
My ResNet as a test problem
===========================

A network with batch norm and dropout becomes a pure test problem: what the layers draw becomes noise of the batch,
their running statistics become model state.
"""

# %%
# Nothing in the module knows of this package.
import os

import numpy as np
import torch
from torch import nn

from deepobs_func import RunConfig, datasets, probes, problems, run
from deepobs_func.problems import measures

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet():
    blocks = (Block(1, 8, 2), Block(8, 16, 2))
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 10))


# %%
# The first 2048 images of Fashion-MNIST are enough to show it.
stored = datasets.load(datasets.spec("fmnist"), DATA)


def arrays(split, size):
    return split.x[:size].numpy().astype(np.float32) / 255, split.y[:size].numpy()


cut = datasets.from_arrays("fmnist_cut", train=arrays(stored.train, 2048), test=arrays(stored.test, 512))
problem = problems.from_module(resnet, measures.cross_entropy, cut, epochs=3, name="my_resnet")
trained = run(RunConfig("my_resnet", "adam", lr=3e-3, output_dir=None, compile="off"), problem)
print("stand-in data: not a result" if stored.synthetic else "Fashion-MNIST, cut")
print([round(each, 3) for each in trained.test_accuracies])

# %%
# Batch norm couples the examples of a batch, so that a per-example gradient says which one is meant.
batch = trained.problem.fake_batch(8)
print(probes.per_example_sq_norms(trained.problem, trained.params, batch, bn="frozen"))
