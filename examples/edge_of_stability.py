"""
Progressive sharpening and the edge of stability
================================================

Full-batch gradient descent at three learning rates: the largest eigenvalue of the Hessian rises to 2 / lr and stays
there, as Cohen et al. (ICLR 2021) found.
"""

# %%
# The network of mnist_mlp, 784-1000-500-100-10 with ReLU, from its own initial point, on its first 100 training digits,
# so that it takes seconds. The batch is the whole set: a step of SGD is one of gradient descent, and the probe sees the
# Hessian of what is descended on. The loss is the squared error to one-hot targets. Under mnist_mlp's own cross-entropy
# the eigenvalue reaches 2 / lr too, and falls again once all digits are learned, since the loss is then flat.
import os
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from deepobs_func import datasets, optimizers, probes, problems, random
from deepobs_func.base import Batch
from deepobs_func.problems import measures
from deepobs_func.runner.step import Carry, make_prepare, make_step

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")
SIZE, STEPS, EVERY = 100, 240, 24
RATES = (0.15, 0.2, 0.3)

problem = replace(problems.get("mnist_mlp"), measure=measures.square)
digits = datasets.load(problem.dataset, DATA, torch.device("cpu")).train
images = make_prepare(problem, augment=False)(digits.x[:SIZE], ())
targets = nn.functional.one_hot(digits.y[:SIZE].long(), 10).float()


def sharpness(lr):
    """The largest eigenvalue of the Hessian at every EVERY-th step of gradient descent."""
    optimizer = optimizers.sgd(lr)
    params, state = problem.init(seed=0)
    carry, found = Carry(params, optimizer.init(params, random.key(0)), state), []
    step, batch = make_step(problem, optimizer, plain=True), Batch(images, targets, {}, state)
    for count in range(STEPS + 1):
        if count % EVERY == 0:
            found.append(float(probes.lanczos_eigenvalues(problem, carry.params, batch, steps=10).values[0]))
        carry, _ = step(carry, batch)
    return np.array(found)


curves = {lr: sharpness(lr) for lr in RATES}

# %%
# The dashed lines are 2 / lr, beyond which gradient descent on a quadratic diverges. The eigenvalue overshoots
# them, and then stays within a tenth of them.
figure, axis = plt.subplots()
at = np.arange(0, STEPS + 1, EVERY)
for lr, values in curves.items():
    (line,) = axis.plot(at, values, ".-", label=f"lr {lr:g}")
    axis.axhline(2 / lr, color=line.get_color(), ls="--", lw=0.8)
    late = values[-len(values) // 4 :] * lr / 2
    print(f"lr {lr:g}: from {values[0]:.2f} to {late.min():.2f} ... {late.max():.2f} of 2 / lr in the last quarter")
axis.set(xlabel="step", ylabel="largest eigenvalue of the Hessian")
axis.set_title("full-batch gradient descent" + (" (STAND-IN DATA: NOT A RESULT)" if DATA == "synthetic" else ""))
axis.legend()
figure
