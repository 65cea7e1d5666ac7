"""torchvision's data sets import beside the installed torch, whether or not its extension does."""

import subprocess
import sys

import pytest

from deepobs_func.datasets.torchvision_parts import torchvision_datasets

FRESH = """
from deepobs_func.datasets.torchvision_parts import torchvision_datasets
module = torchvision_datasets()
print(module.__name__, module.MNIST.__name__, len(module.FashionMNIST.resources), callable(module.utils.download_url))
import torchvision.transforms
"""


@pytest.mark.large
def test_imports_in_a_fresh_process() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["torchvision.datasets", "MNIST", "4", "True"]


def test_imported_once() -> None:
    assert torchvision_datasets() is torchvision_datasets()
