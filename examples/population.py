"""
A population over learning rates
================================

Nine learning rates and three seeds as one training: a leading axis of 27 members, one compiled or vectorised step.
"""

# %%
# Each member is a run like any other, with a record of its own and the numbers that it would have alone.
import tempfile

from deepobs_func import RunConfig, analysis, run_population
from deepobs_func.analysis import figures

results_dir = tempfile.mkdtemp()
config = RunConfig("quadratic_deep", "momentum", lr=1e-3, epochs=20, output_dir=results_dir, compile="off")
population = run_population(config, seeds=range(3), lrs=[10 ** (-5 + 0.5 * k) for k in range(9)])
best = min(population.members, key=lambda member: member.record.test_losses[-1])
print(f"best: lr {best.config.lr:.2g}, test loss {best.record.test_losses[-1]:.2f}")

# %%
# How much a learning rate has to be tuned, at a glance.
figure = figures.sensitivity(analysis.load(results_dir))
figure
