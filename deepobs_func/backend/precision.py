"""The precision of products and convolutions in a run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The type of products and convolutions by the precision that asks for it, where it is not that of the parameters."""


@contextmanager
def precision(name: str, device: torch.device) -> Generator[None]:
    """On NVIDIA GPUs, TF32 in products and convolutions under `"tf32"`, and in neither else, whatever was set before.

    torch's own default, TF32 in convolutions alone, is put back afterwards.
    """
    if device.type != "cuda":
        yield
        return
    settings: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = name == "tf32"
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value
