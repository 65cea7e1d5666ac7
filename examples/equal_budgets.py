"""
K-FAC, SOAP, Muon, Adam and SGD under equal budgets
===================================================

Five optimizers on fmnist_2c2d and tolstoi_char_rnn: as many gradients for each, learning rates tuned by as many runs for
each, fresh seeds, and the verdict.
"""

# %%
# The study ``equal_budgets.yaml`` beside this file is the whole recipe: hours on a GPU. Here a run has a budget of 22
# gradients, each of a batch that it has not seen. K-FAC takes a second forward and backward pass in every tenth step,
# so it makes two steps fewer. That is the first hundredth of a run, and so is the verdict.
import json
import os
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


def steps_of(optimizer):
    """How many steps the budget is enough for."""
    return BUDGET * 10 // 11 if optimizer == "kfac" else BUDGET


def cut(name, steps):
    """The problem on the first part of its data: an epoch of so many steps."""
    problem = problems.get(name)
    whole, unit = problem.dataset, BATCH[name]
    sizes = {"train": (steps + BATCHES) * unit + 2, "test": BATCHES * unit + 1}

    def reader(spec, folder, split):
        return tuple(each[: sizes[split]] for each in whole.function("reader")(whole, folder, split))

    data = replace(whole, reader=reader, train_size=sizes["train"], test_size=sizes["test"], digest="")
    return replace(problem, name=f"{name}_cut", dataset=data)


def trained(name, optimizer, lr, seed, folder=None):
    """The record of a run of one epoch."""
    problem = cut(name, steps_of(optimizer))
    common = {"epochs": 1, "valid": BATCHES * BATCH[name] + 1, "data": DATA, "compile": "off", "train_log_interval": 1}
    config = RunConfig(
        problem.name, optimizer, lr, hyperparams=OPTIONS.get(optimizer, {}), seed=seed, output_dir=folder, **common
    )
    return run(config, problem=problem).record


# %%
# Each optimizer has three learning rates on one seed. The rate with the least loss on the validation set is run again on
# seeds that tuning did not see.
def measured():
    """The records of the fresh seeds by path, and what tuning saw."""
    folder, tuning = Path(tempfile.mkdtemp()), {}
    for name in BATCH:
        for optimizer, rates in RATES.items():
            losses = {lr: trained(name, optimizer, lr, TUNING_SEED).valid_losses[-1] for lr in rates}
            finite = {lr: loss for lr, loss in losses.items() if loss == loss}
            best = min(finite, key=finite.get)
            tuning[f"{name} {optimizer}"] = {"lr": best, "losses": {str(lr): loss for lr, loss in losses.items()}}
            print(name, optimizer, tuning[f"{name} {optimizer}"], flush=True)
            for seed in SEEDS:
                trained(name, optimizer, best, seed, folder)
    files = {str(path.relative_to(folder)): json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    return {"tuning": tuning, "records": files}
