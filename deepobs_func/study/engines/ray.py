"""A sweep on a Ray cluster: each run is a task of Ray's, and comes back from its checkpoint where a node is lost.

Every node needs this package, the data under the same path, and the results tree on a file system that all share.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepobs_func.errors import ConfigError, option
from deepobs_func.study.scheduler import Entry, Scheduler
from deepobs_func.study.task import Ended, Task

LOOK = 0.5  # seconds between two looks at what has ended
PATIENCE = 60.0  # seconds for runs that are cancelled to write their checkpoints


class RayPool(Scheduler):
    """Runs what is submitted on a Ray cluster.

    Args:
        output_dir: the results tree, on a file system that all nodes share.
        cpus, gpus: of each run; `gpus` may be a fraction, so that runs share a GPU.
        address: of the cluster; by default the one that `RAY_ADDRESS` names, or a local one.
        others: as `Scheduler` has them.

    Raises:
        ConfigError: Ray is not installed, or there is no such cluster.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        cpus: float = 1,
        gpus: float = 0,
        address: str | None = None,
        **others: Any,
    ) -> None:
        super().__init__(Path(output_dir).absolute(), **others)
        self._ray = _import_ray()
        self._connected = not self._ray.is_initialized()
        if self._connected:
            _connect(self._ray, address)
        self._run = self._ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_execute)
        self._threads, self._most = max(1, int(cpus)), self._slots(cpus, gpus)
        self._entries = dict[Any, Entry]()

    @property
    def running(self) -> Sequence[Entry]:
        """What is under way, or waits for a node."""
        return list(self._entries.values())

    @property
    def workers(self) -> int:
        """How many runs the cluster takes at a time."""
        return self._most

    def advance(self) -> None:
        """Gives out what can be given out, and handles what has ended, for half a second at most."""
        self._disk.look()
        while len(self._entries) < self._most and (entry := self._due()) is not None:
            self._entries[self._run.remote(self._task(entry).as_plain_data(), self._threads)] = entry
        if not self._entries:
            time.sleep(LOOK)
            return
        done, _ = self._ray.wait(list(self._entries), num_returns=1, timeout=LOOK)
        for task in done:
            self._handle(task, self._entries.pop(task))
        for task, entry in self._entries.items():
            entry.progress = self.ledger.progress(entry.jobs[0].run_id)
            if any(self.ledger.is_cancelled(job.run_id) for job in entry.jobs):
                self._cancel(task)

    def close(self) -> None:
        """Cancels what is under way; each run writes a checkpoint."""
        for task in self._entries:
            self._cancel(task)
        if self._entries:
            self._ray.wait(list(self._entries), num_returns=len(self._entries), timeout=PATIENCE)
        self._entries.clear()
        if self._connected:
            self._ray.shutdown()

    def _cancel(self, task: Any) -> None:
        with contextlib.suppress(Exception):  # it has ended by itself
            self._ray.cancel(task, force=False)

    def _handle(self, task: Any, entry: Entry) -> None:
        errors = self._ray.exceptions
        try:
            self._ended(entry, [Ended(**each) for each in self._ray.get(task)])
        except errors.TaskCancelledError:
            self._ended(entry, [Ended("interrupted")] * len(entry.jobs))
        except (errors.NodeDiedError, errors.RaySystemError, errors.ObjectLostError) as error:
            self._lost(entry, error)
        except errors.WorkerCrashedError as error:
            if self._has_lost_a_node():
                self._lost(entry, error)
            else:
                self._killed(entry, f"The process that ran it crashed: {_first_line(error)}", "")
        except errors.RayError as error:  # out of memory among them
            self._killed(entry, f"The process that ran it ended: {_first_line(error)}", "")

    def _lost(self, entry: Entry, error: Exception) -> None:
        """A node is gone: no fault of the run, which goes on elsewhere from its last checkpoint."""
        self._tell(f"{entry.label} comes back: its node is lost ({_first_line(error)}).")
        entry.started = None
        self.waiting.append(entry)

    def _has_lost_a_node(self) -> bool:
        """A worker that dies with its node is told apart from one that dies alone only by the node."""
        alive = sum(bool(node["Alive"]) for node in self._ray.nodes())
        before, self._alive = getattr(self, "_alive", len(self._ray.nodes())), alive
        return alive < before

    def _slots(self, cpus: float, gpus: float) -> int:
        """How many runs the cluster can take at a time, with one more each to be at hand."""
        there = self._ray.cluster_resources()
        fits = [there.get("CPU", 1) / cpus] if cpus else []
        fits += [there.get("GPU", 0) / gpus] if gpus else []
        most = int(min(fits, default=1))
        if most < 1:
            raise ConfigError(
                f"The Ray cluster has {there.get('CPU', 0):g} CPUs and {there.get('GPU', 0):g} GPUs, too few for a run "
                f"that takes {cpus:g} and {gpus:g}. Give {option('cpus')} and {option('gpus')} that fit."
            )
        self._alive = sum(bool(node["Alive"]) for node in self._ray.nodes())
        return most


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError(
            f"{option('engine')} ray needs the extra ray: pip install 'deepobs-func[ray]'. Without it, "
            f"{option('jobs')} N runs N at a time on this machine."
        ) from None
    return ray


def _connect(ray: Any, address: str | None) -> None:
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"No Ray cluster at {address or 'its default address'}: {_first_line(error)}") from error


def _execute(values: dict[str, Any], threads: int) -> list[dict[str, Any]]:
    """On a node of the cluster, in a process that stays for later tasks."""
    import dataclasses

    import torch

    from deepobs_func.study.worker import printing_to_log

    torch.set_num_threads(threads)
    task = Task.from_plain_data(values)
    with printing_to_log(task):
        from deepobs_func.study.task import execute

        ended = execute(task, lambda progress: None, lambda state: None)
    return [dataclasses.asdict(each) for each in ended]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
