"""The descriptions of the data sets: complete, consistent and free of torch."""

import subprocess
import sys

import pytest

from deepobs_func import datasets
from deepobs_func.errors import ConfigError

FUNCTIONS = ["reader", "prepare", "fake", "download", "stand_in", "draw", "augment", "arrange"]


@pytest.mark.parametrize("field", FUNCTIONS)
@pytest.mark.parametrize("name", datasets.names())
def test_every_named_function_is_there(name: str, field: str) -> None:
    spec = datasets.spec(name)
    if getattr(spec, field):
        assert callable(spec.function(field))


@pytest.mark.parametrize("name", datasets.names())
def test_the_files_of_the_reference_hold_the_training_set(name: str) -> None:
    spec = datasets.spec(name)
    assert sum(spec.file_sizes) == (spec.train_size if spec.file_sizes else 0)


@pytest.mark.parametrize("name", datasets.names())
def test_what_has_files_can_be_fetched_and_stood_in_for(name: str) -> None:
    spec = datasets.spec(name)
    assert spec.generated == (not spec.download) == (not spec.stand_in)


def test_listing_imports_no_torch() -> None:
    code = "import sys\nfrom deepobs_func import datasets\ndatasets.names()\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mnist'"):
        datasets.spec("minst")
