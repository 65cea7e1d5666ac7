"""
My optimizer in 15 lines
========================

An optimizer is a pair of functions. Here: the sign of a running mean of the gradient.
"""

# %%
# ``init`` makes the state, ``update`` makes new parameters and a new state, and changes nothing in place. The oracle is
# the problem at the batch of the step; it computes what it is asked for.
import os
import tempfile

from deepobs_func import RunConfig, analysis, run, tree
from deepobs_func.analysis import figures
from deepobs_func.optimizers import Optimizer

DATA = os.environ.get("DEEPOBS_DATA", "synthetic")


def sign_momentum(lr: float, beta: float = 0.9) -> Optimizer:
    def init(params, key):
        return tree.zeros_like(params)

    def update(oracle, mean, params):
        mean = tree.add(tree.scale(beta, mean), tree.scale(1 - beta, oracle.grad()))
        signs = tree.map(lambda m: m.sign(), mean)
        return tree.sub(params, tree.scale(lr, signs)), mean

    return Optimizer(init, update)


# %%
# It is given as a value. ``deepobs run mnist_logreg --optimizer my_file:sign_momentum --lr 1e-3`` does the same.
results_dir = tempfile.mkdtemp()
common = {"epochs": 2, "data": DATA, "output_dir": results_dir, "compile": "off"}
run(RunConfig("mnist_logreg", "sign_momentum", lr=1e-3, **common), optimizer=sign_momentum(1e-3))
run(RunConfig("mnist_logreg", "adam", lr=1e-3, **common))

figure = figures.curves(analysis.load(results_dir), "train_loss")
figure
