"""ImageNet's three official archives, small: three classes, images that are a few bytes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.io import savemat

from deepobs_func.datasets.imagenet_archives import DEVKIT, TRAIN, VAL

CLASSES = ("n00000007", "n00000002", "n00000005")  # of the development kit's ids 1, 2, 3
TRUTH = (2, 1, 3)  # of the three validation images


def tar(members: Mapping[str, bytes], mode: str = "w", links: Mapping[str, str] | None = None) -> bytes:
    """An archive of some files and links."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:  # type: ignore[call-overload]
        for name, target in (links or {}).items():
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def train_tar(extra: Mapping[str, bytes] | None = None) -> bytes:
    """Two images a class, each class in a tar file of its own."""
    inner = {
        f"{wnid}.tar": tar({f"{wnid}_{i}.JPEG": f"{wnid} {i}".encode() for i in (10, 2)}, links={"up": "../../.."})
        for wnid in CLASSES
    }
    return tar({**inner, **(extra or {})})


def devkit() -> bytes:
    """Ids, of which 4 is a group of classes, and the class of every validation image."""
    rows = [(i, wnid, 0) for i, wnid in enumerate(CLASSES, 1)] + [(4, "n00000009", 2)]
    synsets = np.array(rows, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")])
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    home = "ILSVRC2012_devkit_t12/data"
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    files = {f"{home}/meta.mat": meta.getvalue(), f"{home}/ILSVRC2012_validation_ground_truth.txt": truth}
    return tar(files, "w:gz")


def write_archives(folder: Path) -> Path:
    """Writes all three; returns their folder."""
    folder.mkdir(parents=True)
    images = {f"ILSVRC2012_val_{i:08}.JPEG": f"val {i}".encode() for i in (3, 1, 2)}
    for name, content in ((TRAIN, train_tar()), (VAL, tar(images)), (DEVKIT, devkit())):
        (folder / name).write_bytes(content)
    return folder
