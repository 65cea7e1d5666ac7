"""
Newton-CG on mnist_2c2d
=======================

A second-order optimizer on a convolutional net of 3.3 million parameters, on 128 training images so that it takes
seconds. Each step solves with the damped Gauss-Newton matrix by conjugate gradients.
"""

# %%
# A problem is a pure function, so that its training needs no more than a batch and a step.
import os
import time

import matplotlib.pyplot as plt
import torch

from deepobs_func import datasets, optimizers, problems, random
from deepobs_func.runner import make_step
from deepobs_func.runner.step import Carry

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")
problem = problems.get("mnist_2c2d")
data = datasets.load(problem.dataset, DATA)
params, state = problem.init(seed=0)
x = problem.dataset.function("prepare")(data.train.x[:128], torch.float32)
y = data.train.y[:128]
batch = problem.fake_batch(len(x))._replace(x=x, y=y, state=state)


# %%
# A step is a pure function, too: ``(carry, batch) -> (carry, metrics)``.
def train(optimizer, steps):
    step, found = make_step(problem, optimizer), []
    carry, begin = Carry(params, optimizer.init(params, random.key(0)), state), time.perf_counter()
    for _ in range(steps):
        carry, metrics = step(carry, batch)
        found.append((time.perf_counter() - begin, float(metrics.loss)))
    return found


curves = {
    "newton_cg": train(optimizers.newton_cg(1.0, damping=1.0, cg_steps=4), steps=4),
    "momentum": train(optimizers.momentum(0.02), steps=20),
}

# %%
# A step of Newton-CG costs several gradients, so that the comparison is over seconds.
figure, axis = plt.subplots()
for name, points in curves.items():
    axis.plot(*zip(*points, strict=True), marker="o", label=name)
axis.set(xlabel="seconds", ylabel="loss of the 128 images")
axis.set_title("mnist_2c2d" + (" (STAND-IN DATA: NOT A RESULT)" if data.synthetic else ""))
axis.legend()
figure
