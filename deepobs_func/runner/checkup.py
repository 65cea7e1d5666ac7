"""What this machine has of what runs need, and what makes them slow here."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

import deepobs_func
from deepobs_func.backend import onednn
from deepobs_func.backend.memory import available_bytes
from deepobs_func.backend.threads import cores
from deepobs_func.runner.identity import processor
from deepobs_func.runner.measuring import choices_dir
from deepobs_func.runner.plan import COMPILERS

LITTLE_MEMORY = 4e9  # a training step of the VGGs at batch size 128 takes more
LITTLE_ROOM = 1e9
_PACKAGE = re.compile(r"[A-Za-z0-9_.-]+")
_EXTRA = re.compile(r"extra == ['\"](\w+)['\"]")


class Note(NamedTuple):
    """Something that is wrong, missing or slow.

    Attributes:
        kind: `"broken"`: runs fail; `"missing"`: something optional is not there; `"slow"`.
        what: what was found.
        why: what follows from it.
        mend: what to do about it.
    """

    kind: Literal["broken", "missing", "slow"]
    what: str
    why: str
    mend: str


def versions() -> dict[str, str | None]:
    """The versions of Python, of this package and of the packages that it needs; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "deepobs-func": deepobs_func.__version__}
    return found | {name: _version(name) for name in _required().get("", ())}


def extras() -> dict[str, dict[str, str | None]]:
    """The same for each extra of this package."""
    return {
        extra: {name: _version(name) for name in names if name != "deepobs-func"}
        for extra, names in _required().items()
        if extra not in ("", "test", "bench")
    }


def devices() -> dict[str, Any]:
    """Processor, cores, threads, memory, compiler and GPUs."""
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_available": available_bytes(torch.device("cpu")),
        "products_by_onednn": onednn.is_faster(torch.device("cpu")),
        "compiler": next(filter(None, map(shutil.which, COMPILERS)), None),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
    }


def caches() -> dict[str, dict[str, Any]]:
    """Folders that may be deleted: what was measured, and what torch has compiled; each with its bytes."""
    compiled = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    folders = {
        "measured executions": choices_dir(),
        "compiled code (torch)": Path(compiled) if compiled else _inductor_folder(),
    }
    return {name: {"folder": str(path), "bytes": _bytes(path)} for name, path in folders.items()}


def notes(found: dict[str, Any]) -> Iterator[Note]:
    """What is wrong, missing or slow.

    Args:
        found: what `devices` returns.

    Yields:
        The notes, each with its mend.
    """
    yield from _of_packages()
    yield from _of_speed(found)
    yield from _of_memory(found)


def _of_packages() -> Iterator[Note]:
    for name, version in versions().items():
        if version is None:
            yield Note("broken", f"{name} is not installed", "it is needed", f"pip install {name}")
    for extra, packages in extras().items():
        lacking = [name for name, version in packages.items() if version is None]
        if lacking:
            what = f"{', '.join(lacking)} of the extra {extra} not installed"
            yield Note("missing", what, _LACKS.get(extra, "an option"), f"pip install 'deepobs-func[{extra}]'")


_LACKS = {
    "analysis": "no deepobs compare, best, table",
    "report": "no deepobs report, plot, and no figures of the demonstration",
    "tensorboard": "no deepobs run --tensorboard",
    "tune": "no samplers and pruners of Optuna",
    "ray": "no deepobs sweep --engine ray",
    "curvlinops": "no operators of curvlinops (probes.as_curvlinops)",
}


def _of_speed(found: dict[str, Any]) -> Iterator[Note]:
    if found["compiler"] is None:
        yield Note(
            "slow",
            f"no C++ compiler on the PATH ({', '.join(COMPILERS)})",
            "steps are not compiled: short ones take two to ten times as long",
            "install g++",
        )
    if found["threads"] < found["cores"]:
        yield Note(
            "slow",
            f"torch has {found['threads']} of {found['cores']} cores",
            "a single run of a large net takes longer; many runs at once do not",
            "unset OMP_NUM_THREADS and MKL_NUM_THREADS, unless several runs share the machine",
        )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > found["cores"]:
        yield Note(
            "slow",
            f"a load of {load:.1f} on {found['cores']} cores",
            "other programs take turns with a run, and what is measured now is kept",
            "wait for them, or delete the folder of measured executions afterwards",
        )
    if not found["gpus"] and shutil.which("nvidia-smi"):
        yield Note(
            "slow",
            f"an NVIDIA driver, but torch {torch.__version__} finds no GPU",
            "runs take the processor",
            "install a CUDA build of torch that fits the driver; see nvidia-smi",
        )
    if platform.libc_ver()[0] != "glibc" and sys.platform == "linux":
        yield Note("slow", "another C library than glibc", "freed memory is cleared and taken anew", "use glibc")


def _of_memory(found: dict[str, Any]) -> Iterator[Note]:
    if found["memory_available"] < LITTLE_MEMORY:
        yield Note(
            "slow",
            f"{found['memory_available'] / 1e9:.1f} GB of memory available",
            "the large nets may not fit at their batch size",
            "give a smaller --batch-size",
        )
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if free < LITTLE_ROOM:
        what = f"{free / 1e9:.1f} GB free in {tempfile.gettempdir()}"
        yield Note("slow", what, "compiled code may not be kept", "make room, or set TMPDIR")


def _required() -> dict[str, list[str]]:
    """The packages that this one declares, by extra; "" for those that it always needs."""
    found: dict[str, list[str]] = {}
    try:
        lines = metadata.requires("deepobs-func") or ()
    except metadata.PackageNotFoundError:  # a checkout that is on the path, and was not installed
        return {}
    for line in lines:
        name, extra = _PACKAGE.match(line), _EXTRA.search(line)
        assert name is not None, "a requirement begins with a name"
        found.setdefault(extra[1] if extra else "", []).append(name[0])
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _inductor_folder() -> Path:
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return Path(default_cache_dir())


def _bytes(folder: Path) -> int:
    """Of all files below a folder; 0 where there is none."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # another process removed it
                continue
    return total
