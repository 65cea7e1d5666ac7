"""
Hessian spectrum during training
================================

The spectral density of the Hessian before, during and after training, by stochastic Lanczos quadrature.
"""

# %%
# Training is an iterator: it is looked at after each epoch, and the clock stands still meanwhile.
import os

import matplotlib.pyplot as plt

from deepobs_func import RunConfig, Training, probes, random
from deepobs_func.runner import make_plan
from deepobs_func.runner.callbacks import Evaluated

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")
config = RunConfig("mnist_logreg", "sgd", lr=0.1, epochs=2, data=DATA, output_dir=None, compile="off")
training = Training(make_plan(config))
problem, start = training.plan.problem, training.start()
batch = training.make_batch(start.carry.state, training.batches.first(1).one(0))  # a training batch of 128

densities = {}
for event in training(start):
    if isinstance(event, Evaluated):
        densities[event.epoch] = probes.spectral_density(
            problem, event.params, batch, key=random.key(0), samples=2, steps=20
        )

# %%
# Most eigenvalues are near 0; a few stand out, about one for each class.
figure, axis = plt.subplots()
for epoch, found in densities.items():
    axis.semilogy(found.grid, found.density.clamp(min=1e-6), label=f"after {epoch} epochs")
axis.set(xlabel="eigenvalue of the Hessian", ylabel="density", ylim=(1e-5, None))
axis.set_title("mnist_logreg" + (" (STAND-IN DATA: NOT A RESULT)" if DATA == "synthetic" else ""))
axis.legend()
figure
