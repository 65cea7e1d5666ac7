"""DeepOBS's settings: where data and baselines are, the floating-point type, the device, the sets of problems.

They are of the process, as in DeepOBS, and are read when a data set, a test problem or a run is made. The rest of the
package reads none of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from deepobs_func import problems
from deepobs_func.datasets.loading import SYNTHETIC
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.runner.config import default_data

_TYPES = {"float32": torch.float32, "float64": torch.float64}
_SMALL = ("quadratic_deep", "mnist_vae", "fmnist_2c2d", "cifar10_3c3d")
_LARGE = ("fmnist_vae", "cifar100_allcnnc", "svhn_wrn164", "tolstoi_char_rnn")


@dataclass
class _Settings:
    data_dir: str | None = None
    baseline_dir: str = "baselines_deepobs"
    dtype: torch.dtype = torch.float32
    device: str | None = None
    is_deterministic: bool = True
    test_sets: dict[str, list[str]] = field(default_factory=lambda: {"small": list(_SMALL), "large": list(_LARGE)})


_SETTINGS = _Settings()


def get_data_dir() -> str:
    """The data folder, absolute; by default `$DEEPOBS_DATA`, or `data_deepobs`."""
    return _absolute(_SETTINGS.data_dir or default_data())


def set_data_dir(data_dir: str | Path) -> None:
    """Sets the data folder; `"synthetic"` is the stand-in, which needs no files."""
    _SETTINGS.data_dir = _absolute(str(data_dir))


def get_baseline_dir() -> str:
    """The folder of the baselines, absolute; by default `baselines_deepobs`."""
    return _absolute(_SETTINGS.baseline_dir)


def set_baseline_dir(baseline_dir: str | Path) -> None:
    """Sets the folder of the baselines."""
    _SETTINGS.baseline_dir = _absolute(str(baseline_dir))


def get_dtype() -> torch.dtype:
    """The floating-point type of test problems and their data; that of the runners is float32."""
    return _SETTINGS.dtype


def set_dtype(dtype: torch.dtype | str) -> None:
    """Sets the floating-point type.

    Args:
        dtype: `torch.float32` or `torch.float64`, or the name of one.

    Raises:
        ConfigError: it is another one.
    """
    found = _TYPES.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if found is None or found not in _TYPES.values():
        raise ConfigError(f"dtype {dtype!r}: it must be torch.float32 or torch.float64, or the name of one.")
    _SETTINGS.dtype = found


get_float_dtype = get_dtype
set_float_dtype = set_dtype


def get_default_device() -> str:
    """Where test problems live unless they are given a device; by default a GPU, where there is one."""
    return _SETTINGS.device or ("cuda" if torch.cuda.is_available() else "cpu")


def set_default_device(device: str | torch.device) -> None:
    """Sets the default device, e.g. `"cpu"` or `"cuda:0"`."""
    _SETTINGS.device = str(torch.device(device))


def get_is_deterministic() -> bool:
    """What `set_is_deterministic` was given last; True at first."""
    return _SETTINGS.is_deterministic


def set_is_deterministic(is_deterministic: bool) -> None:
    """Sets whether cuDNN takes deterministic kernels, without looking for faster ones."""
    _SETTINGS.is_deterministic = is_deterministic
    torch.backends.cudnn.deterministic = is_deterministic
    torch.backends.cudnn.benchmark = not is_deterministic


def get_framework() -> str:
    """`"pytorch"`."""
    return "pytorch"


def set_framework(framework: str) -> None:
    """Takes `"pytorch"`, the only one.

    Raises:
        ConfigError: it is another one.
    """
    if framework != "pytorch":
        raise ConfigError(f"framework {framework!r}: this package has pytorch alone.")


def get_small_test_set() -> list[str]:
    """The names of the four problems of the small set."""
    return list(_SETTINGS.test_sets["small"])


def set_small_test_set(testset: Sequence[str]) -> None:
    """Sets the small set.

    Raises:
        ConfigError: a name is no problem.
    """
    _set_test_set("small", testset)


def get_large_test_set() -> list[str]:
    """The names of the four problems of the large set."""
    return list(_SETTINGS.test_sets["large"])


def set_large_test_set(testset: Sequence[str]) -> None:
    """Sets the large set.

    Raises:
        ConfigError: a name is no problem.
    """
    _set_test_set("large", testset)


def get_testproblem_default_setting(testproblem: str) -> dict[str, int]:
    """The defaults of a test problem.

    Args:
        testproblem: its name.

    Returns:
        `batch_size` and `num_epochs`.

    Raises:
        ConfigError: there is no such problem.

    >>> get_testproblem_default_setting("mnist_vae")
    {'batch_size': 64, 'num_epochs': 50}
    """
    spec = problems.spec_of(testproblem)
    return {"batch_size": spec.batch_size, "num_epochs": spec.epochs}


def _set_test_set(name: str, testset: Sequence[str]) -> None:
    for each in testset:
        if each not in problems.names():
            raise ConfigError(unknown("problem", each, problems.names()))
    _SETTINGS.test_sets[name] = list(testset)


def _absolute(path: str) -> str:
    return path if path == SYNTHETIC else os.path.abspath(os.path.expanduser(path))
