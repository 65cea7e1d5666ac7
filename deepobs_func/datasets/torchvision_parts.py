"""torchvision's pure-Python parts, also where its compiled extension does not fit the installed torch.

The torchvision wheels of the package index are CUDA builds. Beside a CPU-only torch their extension does not load, and
`import torchvision` dies because it registers fake kernels for the operators `nms` and `qnms`, which then do not
exist. Declaring the two schemas first is enough; the operators themselves are not used here.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


@functools.cache
def torchvision_datasets() -> ModuleType:
    """`torchvision.datasets`, imported with the missing operators declared where the extension is missing."""
    library = _declare_missing_operators()
    import torchvision

    torchvision._deepobs_func_library = library  # a library's declarations end when it is collected
    import torchvision.datasets as datasets

    return datasets


def _declare_missing_operators() -> torch.library.Library | None:
    if _extension_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    return library


def _extension_loads() -> bool:
    """Whether torchvision's compiled library can be loaded beside this torch."""
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("torchvision")
    assert spec is not None, "torchvision is a declared dependency"
    assert spec.origin is not None, "torchvision is a package with files"
    try:
        for extension in Path(spec.origin).parent.glob("_C*"):
            torch.ops.load_library(str(extension))
    except (OSError, RuntimeError):
        return False
    return hasattr(torch.ops.torchvision, "nms")
