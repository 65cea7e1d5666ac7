"""
A package with a problem and an optimizer
=========================================

Another package adds problems, data sets and optimizers by entry points. Here the package is written into a folder and
made known as an installer would; in yours, ``pyproject.toml`` has the entry points.
"""

# %%
# A problem is a row: a data set, a net and a loss, each by its import path. An optimizer is a row, too.
import subprocess
import sys
import tempfile
from pathlib import Path

SPECS = """
from deepobs_func.datasets import DatasetSpec
from deepobs_func.optimizers import Hyperparameter, OptimizerSpec
from deepobs_func.optimizers.hyperparameters import FRACTION
from deepobs_func.problems import ProblemSpec

DATA = DatasetSpec(
    name="rings",
    title="Rings",
    train_size=512,
    test_size=256,
    shape=(2,),
    num_classes=2,
    reader="ringworld.code:read",
    prepare="deepobs_func.datasets.prepare:as_it_is",
    fake="deepobs_func.datasets.prepare:fake_standardized",
)
PROBLEM = ProblemSpec(
    name="rings_mlp",
    dataset="rings",
    net="ringworld.code:Net",
    measure="deepobs_func.problems.measures:cross_entropy",
    parameters=82,
    epochs=20,
    batch_size=32,
)
OPTIMIZER = OptimizerSpec(
    "soft_sign", "ringworld.code:soft_sign", "a soft sign of the mean", {"decay": Hyperparameter(0.5, FRACTION)}
)
"""
CODE = """
import numpy as np
import torch
from torch import nn

from deepobs_func import tree
from deepobs_func.nets.initializers import glorot_uniform
from deepobs_func.nets.layers import Dense
from deepobs_func.optimizers.transforms import Transform, compose


def read(spec, folder, split):
    r = np.random.RandomState(split == "train")
    y = r.randint(0, 2, spec.train_size if split == "train" else spec.test_size)
    angle, radius = r.uniform(0, 2 * np.pi, len(y)), 1 + y + 0.2 * r.normal(size=len(y))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).astype(np.float32), y


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = Dense(2, 16, glorot_uniform()), Dense(16, 2, glorot_uniform())

    def forward(self, x, p):
        return self.out(torch.tanh(self.hidden(x, p)), p)


def soft_sign(lr, decay=0.5, *, before=(), after=(), schedule=None):
    def direction(gradient, mean, params, hyper, step):
        mean = tree.map(lambda m, g: m + (1 - hyper["decay"]).to(m.dtype) * (g - m), mean, gradient)
        return tree.map(lambda m: m / (0.1 + m.abs()), mean), mean

    rule = Transform({"decay": decay}, tree.zeros_like, direction)
    return compose(*before, rule, *after, lr=lr, schedule=schedule)
"""
ENTRY_POINTS = """
[deepobs_func.datasets]
ringworld = ringworld.specs:DATA
[deepobs_func.problems]
ringworld = ringworld.specs:PROBLEM
[deepobs_func.optimizers]
ringworld = ringworld.specs:OPTIMIZER
"""
site = Path(tempfile.mkdtemp())
files = {"ringworld/__init__.py": "", "ringworld/specs.py": SPECS, "ringworld/code.py": CODE}
files["ringworld-1.0.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: ringworld\nVersion: 1.0\n"
files["ringworld-1.0.dist-info/entry_points.txt"] = ENTRY_POINTS
for name, text in files.items():
    (site / name).parent.mkdir(exist_ok=True)
    (site / name).write_text(text)

# %%
# A new process finds both by name, as any command does; so do ``deepobs list``, completion and studies.
program = """
from deepobs_func import RunConfig, run
found = run(RunConfig("rings_mlp", "soft_sign", lr=0.02, output_dir=None, compile="off"))
print([round(each, 2) for each in found.test_accuracies[::5]])
"""
code = f"import sys; sys.path.insert(0, {str(site)!r})\n{program}"
print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
