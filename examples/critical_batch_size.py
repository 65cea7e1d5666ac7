"""
Critical batch size
===================

How large a batch pays: the simple noise scale of fmnist_2c2d along training, from the gradients of single examples, and
beside it a direct estimate from the gradients of two batch sizes.
"""

# %%
# Below the critical batch size, twice the batch saves nearly half of the steps; above it, next to none (McCandlish et
# al. 2018). It is `tr Cov(g_n) / |E g_n|^2`. `probes.gram` has the inner products of a batch's gradients without
# holding a single one of them; over several batches the mean of the one estimate is divided by that of the other.
import os

import matplotlib.pyplot as plt
import numpy as np
import torch

from deepobs_func import RunConfig, Training, probes, tree
from deepobs_func.probes import quantities
from deepobs_func.runner import make_plan
from deepobs_func.runner.callbacks import Stepped

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")
SMALL, LARGE, BATCHES = 32, 256, 4
AT = (0, 8)  # steps

config = RunConfig("fmnist_2c2d", "sgd", 0.05, epochs=1, batch_size=LARGE, data=DATA, output_dir=None, compile="off")
training = Training(make_plan(config), watch=lambda step: step in AT)
problem, start = training.plan.problem, training.start()
inputs = [each.one(0) for _, each in zip(range(BATCHES), training.batches.epoch(1, 1), strict=False)]
batches = [training.make_batch(start.carry.state, each) for each in inputs]  # the first ones of the second epoch


def of_gram(params):
    grams = [probes.gram(problem, params, batch) for batch in batches]
    noise = torch.stack([quantities.sample_covariance_trace(gram) for gram in grams])
    signal = torch.stack([quantities.squared_gradient(gram) for gram in grams])
    return float(noise.mean() / signal.mean())


# %%
# The direct estimate sees no single gradient: that of a batch of B has the expected squared norm
# `|E g|^2 + tr Cov / B`, which for two batch sizes are two equations. The gradient of a large batch is the mean of
# those of the small ones that it consists of.
def direct(params):
    gradient = torch.func.grad(lambda p, b: problem.loss(p, b).mean())
    squares = {SMALL: [], LARGE: []}
    for batch in batches:
        parts = [batch._replace(x=batch.x[n : n + SMALL], y=batch.y[n : n + SMALL]) for n in range(0, LARGE, SMALL)]
        rows = torch.stack([tree.flatten(gradient(params, part)) for part in parts])
        squares[SMALL].append(float(rows.square().sum(1).mean()))
        squares[LARGE].append(float(rows.mean(0).square().sum()))
    small, large = np.mean(squares[SMALL]), np.mean(squares[LARGE])
    noise = (small - large) / (1 / SMALL - 1 / LARGE)
    signal = (LARGE * large - SMALL * small) / (LARGE - SMALL)
    return noise / signal


found = {}
for event in training(start):
    if isinstance(event, Stepped):
        found[event.index] = (of_gram(event.before.params), direct(event.before.params))
        print("step {}: {:.1f} from Gram matrices, {:.1f} direct".format(event.index, *found[event.index]))
    if event.step > max(AT):
        break

# %%
# Both see the same examples and agree, up to the noise of so few batches.
figure, axis = plt.subplots()
for index, name in enumerate(("from Gram matrices", f"direct, from {SMALL} and {LARGE}")):
    axis.plot(list(found), [each[index] for each in found.values()], "os"[index] + "-", label=name, mfc="none")
axis.set(xlabel="step", ylabel="critical batch size", yscale="log")
axis.set_title("fmnist_2c2d" + (" (STAND-IN DATA: NOT A RESULT)" if DATA == "synthetic" else ""))
axis.legend()
figure
