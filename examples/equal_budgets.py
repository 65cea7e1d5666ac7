"""
K-FAC, SOAP, Muon, Adam and SGD under equal budgets
===================================================

Five optimizers on fmnist_2c2d and tolstoi_char_rnn: as many gradients for each, learning rates tuned by as many runs,
fresh seeds, and the verdict.
"""

# %%
# The study ``equal_budgets.yaml`` beside this file is the whole recipe: hours on a GPU. Here a run has a budget of 22
# gradients, each of a batch that it has not seen. K-FAC takes a second forward and backward pass in every tenth step,
# so it makes two steps fewer. That is the first hundredth of a run, and so is the verdict.
import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt

import deepobs_func
from deepobs_func import RunConfig, analysis, problems, run

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")
BUDGET, BATCHES = 22, 4  # gradients; batches of test and validation each
TUNING_SEED, SEEDS = 1, (2, 3, 4)
BATCH = {"tolstoi_char_rnn": 2500, "fmnist_2c2d": 128}  # characters; images
RATES = {
    "sgd": (0.1, 0.5, 2.0),
    "adam": (1e-3, 3e-3, 1e-2),
    "muon": (0.005, 0.02, 0.08),
    "soap": (1e-3, 3e-3, 1e-2),
    "kfac": (0.03, 0.1, 0.3),
}
# The side of 3,136 of fmnist_2c2d's first dense layer has no matrix: its decompositions would take minutes.
OPTIONS = {"soap": {"max_dim": 1024, "weight_decay": 0.0}, "kfac": {"max_dim": 1024}}


def steps_of(optimizer, budget):
    """How many steps the budget is enough for."""
    return budget * 10 // 11 if optimizer == "kfac" else budget


def cut(name, steps):
    """The problem on the first part of its data: an epoch of so many steps."""
    problem = problems.get(name)
    whole, unit = problem.dataset, BATCH[name]
    sizes = {"train": (steps + BATCHES) * unit + 2, "test": BATCHES * unit + 1}

    def reader(spec, folder, split):
        return tuple(each[: sizes[split]] for each in whole.function("reader")(whole, folder, split))

    data = replace(whole, reader=reader, train_size=sizes["train"], test_size=sizes["test"], digest="")
    return replace(problem, name=f"{name}_cut", dataset=data)


def trained(name, optimizer, lr, seed, folder=None, budget=BUDGET):
    """The record of a run of one epoch."""
    problem = cut(name, steps_of(optimizer, budget))
    common = {"epochs": 1, "valid": BATCHES * BATCH[name] + 1, "data": DATA, "compile": "off", "train_log_interval": 1}
    config = RunConfig(
        problem.name, optimizer, lr, hyperparams=OPTIONS.get(optimizer, {}), seed=seed, output_dir=folder, **common
    )
    return run(config, problem=problem).record


# %%
# Here: one run of each on the text, 11 gradients. K-FAC pays for its factors in the first
# step.
HERE = {"sgd": 2.0, "adam": 1e-2, "muon": 0.08, "soap": 1e-2, "kfac": 0.1}  # as tuned below
folder = Path(tempfile.mkdtemp())
figure, axis = plt.subplots()
for optimizer, lr in HERE.items():
    record = trained("tolstoi_char_rnn", optimizer, lr, SEEDS[0], folder, budget=11)
    losses = record.minibatch_train_losses
    extra = [1 + step // 10 if optimizer == "kfac" else 0 for step in range(len(losses))]
    axis.plot([step + 1 + more for step, more in enumerate(extra)], losses, ".-", label=f"{optimizer}, lr {lr:g}")
axis.set(xlabel="gradients", ylabel="mini-batch loss")
axis.set_title("tolstoi_char_rnn" + (" (STAND-IN DATA: NOT A RESULT)" if DATA == "synthetic" else ""))
axis.legend()
figure


# %%
# The verdict takes tuning and seeds: each optimizer has three learning rates on one seed, and the rate with the least
# loss on the validation set is run again on seeds that tuning did not see. ``python equal_budgets.py whole`` does that
# for both problems, 12 minutes on a core, and keeps the records: with three seeds, most pairs are undecided.
def measured(folder):
    """What tuning saw; the records of the fresh seeds are in the folder."""
    tuning = {}
    for name in BATCH:
        for optimizer, rates in RATES.items():
            runs = {lr: trained(name, optimizer, lr, TUNING_SEED) for lr in rates}
            losses = {lr: record.valid_losses[-1] for lr, record in runs.items() if record.valid_losses}
            best = min((lr for lr in rates if losses[lr] == losses[lr]), key=lambda lr: losses[lr])
            for seed in SEEDS:
                trained(name, optimizer, best, seed, folder)
            tuning[f"{name} {optimizer}"] = {"lr": best, "losses": {f"{lr:g}": loss for lr, loss in losses.items()}}
    return tuning


kept = Path(deepobs_func.__file__).parents[1] / "benchmarks" / "results" / "equal_budgets.json"
if "whole" in sys.argv:
    folder = Path(tempfile.mkdtemp())
    tuning = measured(folder)
    records = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    for record in records.values():  # of which places nobody else has them
        given = record["deepobs_func"]["configuration"]
        given |= {"output_dir": "results", "data": DATA if DATA == "synthetic" else "data"}
    kept.write_text(json.dumps({"tuning": tuning, "records": records}))
if kept.exists():
    folder = Path(tempfile.mkdtemp())
    for name, content in json.loads(kept.read_text())["records"].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
print(analysis.compare(analysis.load(folder)))
