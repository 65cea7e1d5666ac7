"""
Gradient noise through training
===============================

How noisy is the gradient of a mini-batch, and how does that change? A run tracks it off the clock.
"""

# %%
# ``noise_scale`` is the trace of the covariance of the per-example gradients over the squared norm of their mean: the
# batch size at which noise and signal are equal. No per-example gradient is ever held.
import os
import tempfile

from deepobs_func import RunConfig, analysis, run
from deepobs_func.analysis import figures

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")
results_dir = tempfile.mkdtemp()
for optimizer, lr in {"sgd": 0.1, "adam": 1e-3}.items():
    config = RunConfig(
        "mnist_logreg",
        optimizer,
        lr,
        epochs=2,
        data=DATA,
        output_dir=results_dir,
        compile="off",
        track=("noise_scale", "grad_norm", "norm_test"),
        track_every="log",
    )
    run(config)

# %%
# As the gradient shrinks, the noise that is left dominates.
figure = figures.tracked(analysis.load(results_dir), ["noise_scale", "grad_norm", "norm_test"])
figure
