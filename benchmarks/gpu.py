"""A GPU in a few minutes: its tests, and steps, epochs, probes and populations beside its measured peak.

    python -m benchmarks.gpu [--seconds 540] [--results DIR] [--only tests steps ...] [--device cuda] [--tiny]

The tests of `tests/gpu` come first. Then every problem of every part has a process of its own. All compile at once, on
as many cores as there are; when they are ready, or time presses, one after the other is measured, while no other one
uses the device. What is found is written at once, into `gpu-<name of the GPU>.json`; the output of the tests lies
beside it. No data are read: stand-ins serve.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import gpu_parts, gpu_report, recording

ROOT = Path(__file__).parents[1]
SHARE_OF_TESTS, SHARE_OF_PREPARATION = 0.4, 0.75  # of all seconds, and of those that are left, at most
RESERVE = 10.0  # seconds before the end in which nothing is begun
_VERDICT = re.compile(r"\b(PASSED|FAILED|ERROR)\b\s+(?:\[\s*\d+%\]\s+)?(tests/\S+)|(tests/\S+)\s+(PASSED|FAILED|ERROR)")


class Job(NamedTuple):
    """A process that measures a problem of a part."""

    part: str
    problem: str
    process: Any
    connection: Connection


def run_tests(device: str, seconds: float, log: Path, workers: int, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Runs the GPU tests for so long at most: how many passed, and what failed.

    Args:
        device: where they run.
        seconds: after which they are ended.
        log: where their output goes.
        workers: processes.
        chosen: more arguments of pytest.
    """
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider", *chosen]
    command += ["-n", str(workers), "--dist", "worksteal"] if workers else []
    environment = os.environ | {"DEEPOBS_TEST_DEVICE": device}
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, "tests/gpu"], cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
    return verdicts(log.read_text(encoding="utf-8")) | {"seconds": time.perf_counter() - start, "exit_code": code}


def verdicts(output: str) -> dict[str, Any]:
    """What the output of `pytest -v` says of each test."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        match = _VERDICT.search(line)
        if match:
            word, name = (match[1], match[2]) if match[1] else (match[4], match[3])
            found[name] = "FAILED" if "FAILED" in (word, found.get(name)) else word
    failed = sorted(name for name, word in found.items() if word != "PASSED")
    return {"passed": len(found) - len(failed), "failed": failed}


def _worker(part: str, problem: str, device: str, tiny: bool, connection: Connection) -> None:
    """Prepares, says so, waits for its turn, measures, and answers."""

    def ready() -> None:
        connection.send("ready")
        connection.recv()

    try:
        measure, _ = gpu_parts.PARTS[part]
        rows = measure(problem, torch.device(device), tiny, ready)
        connection.send({"rows": rows})
    except Exception:  # whatever fails here is a finding
        connection.send({"error": traceback.format_exc()[-2000:]})


def _begun(part: str, problem: str, device: str, tiny: bool) -> Job:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker, args=(part, problem, device, tiny, theirs), daemon=True)
    process.start()
    theirs.close()
    return Job(part, problem, process, ours)


class Session:
    """The results so far, and the time that is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        is_cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if is_cuda else self.device.type
        self.results: dict[str, Any] = {"name": name, "tiny": options.tiny, "environment": recording.environment()}
        self.folder: Path = options.results
        self.path = self.folder / f"gpu-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
        self._end = time.perf_counter() + options.seconds

    @property
    def left(self) -> float:
        """Seconds."""
        return self._end - time.perf_counter()

    def keep(self, part: str, found: Any, problem: str = "") -> None:
        """Adds a result, and writes all."""
        if problem:
            self.results.setdefault(part, {})[problem] = found
        else:
            self.results[part] = found
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        said = found.get("error", "").strip().splitlines()[-1:] if isinstance(found, dict) else []
        print(f"{self.left:5.0f} s left: {part} {problem} {' '.join(said)}", flush=True)


def measured(session: Session, jobs: list[Job]) -> None:
    """Lets all prepare, then measures one after the other; what is not ready in time is left out, and said."""
    first = session.left * (1 - SHARE_OF_PREPARATION)
    preparing, prepared = list(jobs), list[Job]()
    while preparing or prepared:
        pause = session.left - (RESERVE if prepared and not preparing else first)
        for connection in wait([job.connection for job in preparing], max(0.0, pause)) if preparing else []:
            job = next(job for job in preparing if job.connection is connection)
            preparing.remove(job)
            answer = _answer(job)
            if answer == "ready":
                prepared.append(job)
            else:
                _end(session, job, answer)
        if preparing and session.left > first:
            continue
        first = min(first, session.left)  # from here on one that gets ready waits for nobody
        if session.left < RESERVE:
            break
        if prepared:
            job = prepared.pop(0)
            job.connection.send("go")
            in_time = job.connection.poll(max(1.0, session.left - RESERVE / 2))
            _end(session, job, _answer(job) if in_time else {"error": "time was up"})
        elif preparing:
            wait([job.connection for job in preparing], max(0.0, session.left - RESERVE))
    for job in (*preparing, *prepared):
        _end(session, job, {"error": "time was up before it was measured"})


def _answer(job: Job) -> Any:
    try:
        return job.connection.recv()
    except EOFError:
        return {"error": f"its process ended with {job.process.exitcode}"}


def _end(session: Session, job: Job, found: Any) -> None:
    job.process.kill()
    job.process.join()
    session.keep(job.part, found, job.problem)


def main(arguments: list[str] | None = None) -> None:
    """Tests, measures, writes, and prints a report."""
    parts = ("tests", "peak", *gpu_parts.PARTS)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=540.0, help="for everything")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART", help=", ".join(parts))
    parser.add_argument("--problems", nargs="+", metavar="NAME", help="default: those of each part")
    parser.add_argument("--results", type=Path, default=recording.RESULTS, help="the folder of the JSON file")
    parser.add_argument("--tiny", action="store_true", help="small sizes and no compiler: does it run?")
    parser.add_argument("--workers", type=int, default=6, help="processes of the tests")
    parser.add_argument("--tests", nargs="+", default=[], metavar="ARG", help="more arguments of pytest")
    options = parser.parse_args(arguments)
    session = Session(options)
    if "tests" in options.only:
        log = session.path.with_name(f"{session.path.stem}-tests.txt")
        log.parent.mkdir(parents=True, exist_ok=True)
        seconds = SHARE_OF_TESTS * session.left
        session.keep("tests", run_tests(options.device, seconds, log, options.workers, options.tests))
    if "peak" in options.only:
        session.keep("peak", gpu_parts.peak(session.device, options.tiny))
    jobs = [
        _begun(part, problem, options.device, options.tiny)
        for part, (_, names) in gpu_parts.PARTS.items()
        if part in options.only
        for problem in options.problems or names
    ]
    measured(session, jobs)
    print(gpu_report.report(session.results))


if __name__ == "__main__":
    main()
