"""What a study keeps beside its records: claims, logs, marks and progress, in the state folder.

The records are the truth. All that lies here can be lost: which runs are finished, half done or failed is read from
records and checkpoints.

    <state>/study/runs.json         what was asked for: run by run
    <state>/study/<run_id>/lock     held by the process that runs it
    <state>/study/<run_id>/log      what it printed, and its tracebacks
    <state>/study/<run_id>/now      where it is, while it runs
    <state>/study/<run_id>/cancel   a mark: it is not to run
    <state>/study/choices/          how runs are executed, so that all of a study are executed alike
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from deepobs_func import files, records
from deepobs_func.errors import ConfigError, option
from deepobs_func.runner.config import as_plain_data
from deepobs_func.study.claims import Claim, check_locks
from deepobs_func.study.jobs import Job


class Changes(NamedTuple):
    """How the runs of a study differ from those that were asked for in its folder before.

    Attributes:
        new: how many were not asked for before.
        dropped: how many were, and are not now.
    """

    new: int
    dropped: int


UNCHANGED = Changes(0, 0)


class Ledger:
    """The part of a state folder that belongs to studies.

    Args:
        output_dir: the results tree.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = output_dir
        self.folder: Path = records.state_dir(output_dir) / "study"

    def check(self) -> None:
        """Checks that it can be kept.

        Raises:
            ConfigError: files there cannot be locked.
        """
        check_locks(self.folder)

    @property
    def choices(self) -> Path:
        """The folder of what was chosen by measuring."""
        return self.folder / "choices"

    def of(self, run_id: str) -> Path:
        """The folder of a run."""
        return self.folder / run_id

    def claim(self, run_id: str) -> Claim:
        """The claim on a run, not taken yet."""
        self.of(run_id).mkdir(parents=True, exist_ok=True)
        return Claim(self.of(run_id) / "lock")

    def is_claimed(self, run_id: str) -> bool:
        """Whether a process runs it now."""
        if not (self.of(run_id) / "lock").exists():
            return False
        claim = self.claim(run_id)
        if not claim.acquire():
            return True
        claim.release()
        return False

    def log(self, run_id: str) -> Path:
        """The file of what a run printed."""
        return self.of(run_id) / "log"

    def note(self, run_id: str, progress: Mapping[str, Any]) -> None:
        """Notes where a run is; a disk that is full costs the note alone."""
        with contextlib.suppress(OSError):
            _write(self.of(run_id) / "now", progress)

    def progress(self, run_id: str) -> dict[str, Any]:
        """Where a run is, as it last noted; `{}` where it did not."""
        found = _read(self.of(run_id) / "now")
        return found if isinstance(found, dict) else {}

    def cancel(self, run_id: str) -> None:
        """Marks a run as one that is not to run; whoever runs it ends it within seconds, and keeps what it did."""
        self.of(run_id).mkdir(parents=True, exist_ok=True)
        (self.of(run_id) / "cancel").touch()

    def allow(self, run_id: str) -> None:
        """Takes the mark away."""
        (self.of(run_id) / "cancel").unlink(missing_ok=True)

    def is_cancelled(self, run_id: str) -> bool:
        """Whether it is marked."""
        return (self.of(run_id) / "cancel").exists()

    def remember(self, jobs: Iterable[Job]) -> Changes:
        """Notes what is asked for now, beside what was before.

        Returns:
            What differs; `Changes(0, 0)` at first.
        """
        now = _entries(jobs)
        with self._locked():
            before = self.asked()
            dropped = {run_id: {**entry, "asked": False} for run_id, entry in before.items() if run_id not in now}
            entries = {run_id: {**entry, "asked": True} for run_id, entry in now.items()}
            _write(self.folder / "runs.json", dropped | entries)
        was_asked = {run_id for run_id, entry in before.items() if entry.get("asked")}
        return Changes(len(now.keys() - before.keys()) if before else 0, len(was_asked - now.keys()))

    def add_jobs(self, jobs: Iterable[Job]) -> Changes:
        """Notes what is asked for now as a part of a study whose other parts run elsewhere."""
        self.add({run_id: {**entry, "asked": True} for run_id, entry in _entries(jobs).items()})
        return UNCHANGED

    def add(self, entries: Mapping[str, Mapping[str, Any]]) -> None:
        """Notes what another ledger has, beside what is here."""
        with self._locked():
            _write(self.folder / "runs.json", {**entries, **self.asked()})

    def asked(self) -> dict[str, dict[str, Any]]:
        """What was asked for, by run id: `label`, `folder`, `configuration`, and `asked`, whether it still is."""
        found = _read(self.folder / "runs.json")
        return found if isinstance(found, dict) else {}

    def setting(self, name: str, value: Any = None) -> Any:
        """What the study keeps under a name, such as its number of threads.

        Args:
            name: of the setting.
            value: replaces it, unless it is None.

        Returns:
            The value now; None where there is none.
        """
        with self._locked():
            found = _read(self.folder / "settings.json")
            settings = found if isinstance(found, dict) else {}
            if value is not None and settings.get(name) != value:
                settings[name] = value
                _write(self.folder / "settings.json", settings)
        return settings.get(name)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / ".lock"):
                yield
        except OSError as error:
            raise ConfigError(
                f"{self.folder} cannot be written ({error.strerror or error}). Make room there, or name another folder "
                f"with {option('output_dir')}."
            ) from error


def _entries(jobs: Iterable[Job]) -> dict[str, dict[str, Any]]:
    return {
        job.run_id: {"label": job.label, "folder": str(job.folder), "configuration": as_plain_data(job.config)}
        for job in jobs
    }


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, json.dumps(content).encode())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
