"""
Against the published baselines
===============================

The published runs of DeepOBS come with the package. Under the protocol ``deepobs-1.1.2`` a run of ours can be compared
with them.
"""

# %%
# The quadratic problem is generated, so that this is no stand-in. The learning rates are the published ones.
import dataclasses
import tempfile

from deepobs_func import RunConfig, analysis, run
from deepobs_func.analysis import figures, published

results_dir = tempfile.mkdtemp()
for baseline in published.baselines("quadratic_deep"):
    config = RunConfig(
        "quadratic_deep",
        baseline.optimizer,
        lr=baseline.lr,
        hyperparams={"momentum": 0.99} if baseline.optimizer == "momentum" else {},
        protocol="deepobs-1.1.2",
        output_dir=results_dir,
        compile="off",
    )
    for seed in baseline.seed_numbers[:3]:
        run(dataclasses.replace(config, seed=seed))

# %%
# Three of our seeds beside the ten published ones.
ours = analysis.load(results_dir)
print(analysis.against_published(ours)[["optimizer", "quantity", "ours", "theirs", "within"]].to_string())

# %%
# The dotted line is the convergence performance, the target of DeepOBS's Speed.
both = analysis.load(results_dir, baselines=True)
figure = figures.curves(both, problems=["quadratic_deep"])
figure
