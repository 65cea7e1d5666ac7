"""
First benchmark
===============

Three optimizers on logistic regression, two seeds each, and which of them is better.
"""

# %%
# Data come from ``$DEEPOBS_DATA``. Without it the stand-in is used, which can be learned; no number of it is a result.
import os
import tempfile

from deepobs_func import RunConfig, analysis, run
from deepobs_func.analysis import figures

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")
results_dir = tempfile.mkdtemp()

# %%
# A run is a ``RunConfig``. Each run writes its record, a JSON file, below ``output_dir``.
common = {"epochs": 2, "data": DATA, "output_dir": results_dir, "compile": "off"}
for optimizer, lr in {"sgd": 0.1, "momentum": 0.02, "adam": 1e-3}.items():
    for seed in (42, 43):
        run(RunConfig("mnist_logreg", optimizer, lr, seed=seed, **common))

# %%
# All figures and tables are made from the records.
results = analysis.load(results_dir)
figure = figures.curves(results)
figure

# %%
# The table has DeepOBS's three measures.
table = analysis.benchmark_table(results)
print(table[["optimizer", "performance", "tuneability"]].to_string())

# %%
# A comparison has an interval and a p-value. Two seeds are few: "undecided" is an answer, too.
print(analysis.compare(results))
