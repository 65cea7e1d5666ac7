"""Old import paths: each in a process of its own, since they are of the process."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from deepobs_func import problems
from deepobs_func.compat import installing, testproblems
from deepobs_func.compat.model import Model
from deepobs_func.compat.testproblems import architectures

SCRIPT = """
import importlib.util
import sys

from deepobs_func import compat

compat.install()
compat.install()

import deepobs
from deepobs import analyzer, config
from deepobs import pytorch as pt
from deepobs.pytorch import testproblems
from deepobs.pytorch.datasets.mnist import mnist
from deepobs.pytorch.datasets import MNIST
from deepobs.pytorch.runners.runner import PTRunner
from deepobs.pytorch.runners import StandardRunner, runner_utils
from deepobs.pytorch.testproblems.testproblem import TestProblem
from deepobs.pytorch.testproblems.mnist_mlp import mnist_mlp
from deepobs.pytorch.testproblems import _inception_v3, _mlp, _vae, _wrn, testproblems_modules
from deepobs.pytorch.testproblems.testproblems_modules import net_mlp
from deepobs.pytorch.testproblems.testproblems_utils import flatten, tfconv2d, tfmaxpool2d
from deepobs.pytorch.testproblems.cifar100_allcnnc import AllCNNC
from deepobs.tuner.tuner_utils import log_uniform

for name in [name for name in sys.modules if name.partition(".")[0] == "deepobs"]:
    assert importlib.util.find_spec(name) is not None
assert pt.runners.StandardRunner is StandardRunner
assert mnist is MNIST
assert testproblems.mnist_mlp is mnist_mlp
assert issubclass(mnist_mlp, TestProblem)
assert issubclass(AllCNNC, _mlp.MLP.__base__)
assert net_mlp is testproblems_modules.net_mlp is _mlp.MLP
assert (_vae.vae.of, _inception_v3.inception_v3.of) == ({8: "mnist_vae"}, {1001: "imagenet_inception_v3"})
assert (_mlp.MLP(num_outputs=10).fc1.out_features, _wrn.wrn_16_4.of) == (1000, {10: "svhn_wrn164"})
pt.set_data_dir("somewhere")
assert config.get_data_dir() == pt.config.get_data_dir()
"""


def in_a_process(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.large
def test_old_import_paths(tmp_path: Path) -> None:
    done = in_a_process(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_problem_that_is_not_deepobs_s_has_none_of_its_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its name ends as one of DeepOBS's does; of a plug-in too."""
    rings = dataclasses.replace(problems.spec_of("digits_mlp"), name="rings_mlp")
    monkeypatch.setitem(problems.REGISTRY.own, "rings_mlp", rings)
    found = installing._one_a_class()
    assert found["deepobs.pytorch.testproblems.mnist_mlp"].MLP is architectures.MLP
    for name in ("digits_mlp", "rings_mlp"):
        assert not hasattr(found[f"deepobs.pytorch.testproblems.{name}"], "MLP")
        tproblem = testproblems.testproblem(name, batch_size=32, device="cpu")
        tproblem.set_up()
        assert type(tproblem.model) is Model


def test_other_programs_find_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepobs", installing._package("deepobs"))
    found = importlib.util.find_spec("deepobs")
    assert found is not None
    assert (found.name, found.submodule_search_locations) == ("deepobs", [])


def test_a_real_deepobs_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "deepobs").mkdir()
    (tmp_path / "deepobs" / "__init__.py").touch()
    done = in_a_process("from deepobs_func.compat.installing import install; install()", tmp_path)
    assert "A package deepobs is installed" in done.stderr
    assert done.returncode == 1
