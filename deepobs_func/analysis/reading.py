"""Results trees, folders and files, read at once: `load`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from deepobs_func.analysis import published
from deepobs_func.analysis.extras import need
from deepobs_func.analysis.frames import make_frames
from deepobs_func.analysis.parsing import Parsed, Unread, parse
from deepobs_func.analysis.results import Results
from deepobs_func.errors import ConfigError
from deepobs_func.records import output_path, state_dir

PUBLISHED = "published"
"""In the place of a path: the runs that come with the package."""
_SUFFIXES = (".json", ".json.partial")
_PARTIAL = ".json.partial"
_NO_RECORDS = ("convergence_performance.json",)  # beside records, and known not to be one
_KNOWN_BY = ("finished", "diverged")


def load(
    paths: str | Path | Iterable[str | Path] | Mapping[str, str | Path],
    *,
    baselines: bool | str | Path = False,
    unfinished: bool = True,
) -> Results:
    """Reads every run below some paths: ours, DeepOBS's, the port's, those of "Descending through a Crowded Valley".

    Args:
        paths: results trees, folders within them, or single files; `"published"` for the runs that come with the
            package. By label, to compare trees: optimizers of one name are then told apart by it.
        baselines: whether the published runs are added, or a folder of others.
        unfinished: whether runs that were stopped, interrupted or failed are read, too; they lie in the state folder of
            a tree.

    Returns:
        The runs, each once. A file that cannot be read is in `unread`, with its reason.

    Raises:
        ConfigError: a path does not exist, or pandas is not installed.

    >>> results = load("published")
    >>> results.problems[:2], len(results.runs)
    (['cifar100_allcnnc', 'cifar10_3c3d'], 240)
    """
    need("pandas", "Reading results")
    wanted = _labelled(paths)
    wanted += [] if baselines is False else [("", PUBLISHED if baselines is True else str(baselines))]
    files: dict[str, str] = {}
    for label, path in wanted:
        for file in () if path == PUBLISHED else _files(path, unfinished):
            files.setdefault(file, label)
    found = list(map(parse, files))
    for each, label in zip(found, files.values(), strict=True):
        if isinstance(each, Parsed):
            each.facts["label"] = label
    runs, unread = _distinct(found)
    if any(path == PUBLISHED for _, path in wanted):
        runs += published.parsed_runs()
    return Results(**make_frames(runs), unread=unread)


def _labelled(paths: str | Path | Iterable[str | Path] | Mapping[str, str | Path]) -> list[tuple[str, str]]:
    if isinstance(paths, Mapping):
        return [(label, str(path)) for label, path in paths.items()]
    return [("", str(path)) for path in ([paths] if isinstance(paths, str | Path) else paths)]


def _files(path: str, unfinished: bool) -> Iterator[str]:
    """The files that may be records below a path, and those of unfinished runs in its state folder."""
    root = output_path(path)
    state = state_dir(root) if unfinished and root.resolve().name else None
    if not root.exists() and (state is None or not state.is_dir()):
        raise ConfigError(f"{path} does not exist. Name a results tree, a folder within it, or a file of a run.")
    if root.is_file():
        yield str(root)
        return
    yield from _walk(root, _SUFFIXES if unfinished else _SUFFIXES[:1])
    if state is not None:
        yield from _walk(state, (_PARTIAL,))


def _walk(root: Path, suffixes: Sequence[str]) -> Iterator[str]:
    """Files by suffix in the order of their names; a folder that a link leads to twice is read once."""
    seen = set()
    for folder, folders, files in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if name.endswith(tuple(suffixes)) and not name.startswith(".") and name not in _NO_RECORDS:
                yield os.path.join(folder, name)


def _distinct(found: Iterable[Parsed | Unread]) -> tuple[list[Parsed], list[Unread]]:
    """Each run once: copies in several trees, and what is left of an attempt whose run was finished later, go."""
    runs, unread = [], []
    known: dict[tuple[object, ...], str] = {}
    partial = []
    for each in found:
        if isinstance(each, Unread):
            unread.append(each)
        elif each.facts["status"] not in _KNOWN_BY:
            partial.append(each)
        elif (first := known.setdefault(_identity(each), each.facts["path"])) != each.facts["path"]:
            unread.append(Unread(each.facts["path"], f"it is the same run as {first}"))
        else:
            runs.append(each)
    finished = {run.facts["run_id"] for run in runs} - {""}
    return runs + [run for run in partial if run.facts["run_id"] not in finished], unread


def _identity(run: Parsed) -> tuple[object, ...]:
    """What two copies of a run share: its numbers, and what was run."""
    facts = run.facts
    names = ("label", "problem", "name", "source", "seed", "folder", "run_id", "execution_id")
    numbers = tuple(run.curves[name].tobytes() for name in ("train_loss", "test_loss", "seconds"))
    return (*(facts[name] for name in names), numbers)
