"""`deepobs tune` killed at random moments, under every budget: the same trials, curve, winner and reported runs.

    python -m tests.study.tuning_kills --problems quadratic_deep mnist_logreg --count 3

Each tuning runs undisturbed once, then in another folder over SIGKILLs of its process or of its workers. The files of
the searches are compared whole, but for the paths in them; so are the numbers of all records. Under a budget of
seconds, which the clock decides, the trials that both have are the same, and none started once it was spent.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from deepobs_func import records
from deepobs_func.study.ledger import Ledger
from tests.study.kills import children, results

BUDGETS: dict[str, list[str]] = {
    "one-shot": ["--budget", "one-shot"],
    "published": ["--budget", "published"],
    "random-4": ["--budget", "random-4"],
    "halton": ["--budget", "halton"],
    "optuna-5": ["--budget", "optuna-5"],
    "optuna-5, pruned": ["--budget", "optuna-5", "--pruner", "median"],
    "gradients": ["--budget", "random-3", "--budget-unit", "gradients"],
    "seconds": ["--budget", "random-3", "--budget-unit", "seconds"],
}
SETTINGS = {
    "quadratic_deep": ["--valid", "256", "--epochs", "10"],
    "mnist_logreg": ["--epochs", "1"],
}
AMOUNTS = {"quadratic_deep": "0.15", "mnist_logreg": "1.0"}  # seconds of training: of two or three trials
PRUNED_EPOCHS = "3"  # after the first of which a pruner can end a trial


class Tuned(NamedTuple):
    """What a tuning left: the files of its searches by name, and the numbers of its records by run id."""

    searches: dict[str, Any]
    numbers: dict[str, Any]


def command(problem: str, budget: str, data: str, folder: Path) -> list[str]:
    # Of the two in gradients, one asks for products too, so that it has fewer trials.
    optimizers = "momentum,adahessian" if budget == "gradients" else "adam,momentum"
    settings = [*SETTINGS[problem], *(["--amount", AMOUNTS[problem]] if budget == "seconds" else [])]
    settings += ["--epochs", PRUNED_EPOCHS] if "pruned" in budget else []
    head = [sys.executable, "-m", "deepobs_func", "tune", problem, "--optimizer", optimizers, *BUDGETS[budget]]
    return [*head, *settings, "--data", data, "--compile", "off", "--jobs", "2", "-q", "--output-dir", str(folder)]


def start(given: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ran(given: list[str]) -> float:
    """Runs it to its end; returns the seconds."""
    begin = time.monotonic()
    subprocess.run(given, check=True, capture_output=True)
    return time.monotonic() - begin


def killed(given: list[str], folder: Path, count: int, longest: float, rng: random.Random) -> list[int]:
    """Kills it so many times, and then lets it end; how many records there were at each kill."""
    found = []
    for _ in range(count):
        process = start(given)
        begin = time.monotonic()
        moment, before = begin + rng.uniform(0.6, 0.95) * longest, len(list(folder.rglob("*.json")))
        while time.monotonic() < moment and process.poll() is None:
            time.sleep(0.01)
            if len(list(folder.rglob("*.json"))) > before + rng.randint(3, 20):
                break
        if process.poll() is not None:
            break  # it was through
        target = rng.choice([process.pid, *children(process.pid)])
        os.kill(target, signal.SIGKILL)
        found.append(len(list(folder.rglob("*.json"))))
        if target != process.pid:  # another worker goes on; the whole is killed a moment later
            time.sleep(rng.uniform(0.0, 3.0))
            if process.poll() is None:
                process.kill()
        process.wait()
    ran(given)
    return found


def left_by(folder: Path) -> Tuned:
    searches = {}
    for path in sorted(records.state_dir(str(folder)).glob("tuning/*.json")):
        content = searches[path.name] = json.loads(path.read_text())
        for each in content["reported"]:
            del each["path"]
    return Tuned(searches, results(folder))


def check_equal_budgets(searches: dict[str, Any], problem: str) -> None:
    """Every search has the same of the same unit, and used it up, or as much as it had settings."""
    assert len({(each["unit"], each["amount"]) for each in searches.values()}) == 1
    for each in searches.values():
        spent = each["curve"]["spent"]
        assert all(part < each["amount"] for part in spent[:-1]), problem
        assert spent[-1] >= each["amount"], problem
        assert each["is_complete"]


def check_same(whole: Tuned, after: Tuned, budget: str) -> None:
    if budget != "seconds":
        assert after.searches == whole.searches, "the curve files differ"
        assert after.numbers.keys() == whole.numbers.keys(), "other runs"
        other = [run_id for run_id, numbers in whole.numbers.items() if after.numbers[run_id] != numbers]
        assert not other, f"{len(other)} records have other numbers"
        return
    for name, search in whole.searches.items():
        told = [
            [(trial["trial"], trial["run_id"], trial["value"]) for trial in each["trials"]]
            for each in (search, after.searches[name])
        ]
        both = min(map(len, told))
        assert told[0][:both] == told[1][:both], name


def shown(searches: dict[str, Any]) -> str:
    """The trials of each optimizer, and the numbers of the winners."""
    by_optimizer: dict[str, list[Any]] = {}
    for each in searches.values():
        by_optimizer.setdefault(each["optimizer"], []).append(each)
    parts = []
    for name, own in by_optimizer.items():
        trials = "+".join(str(len(each["trials"])) for each in own)
        parts.append(f"{name} {trials} trials, winner {', '.join(str(each['winner']) for each in own)}")
    return "; ".join(parts)


def main() -> None:
    """Tunes, kills and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--budgets", nargs="*", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--data", default=os.environ.get("DEEPOBS_DATA", "synthetic"))
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    for problem in given.problems:
        for budget in given.budgets:
            with tempfile.TemporaryDirectory() as place:
                os.environ["DEEPOBS_CACHE"] = f"{place}/cache"
                folders = [Path(place, name) for name in ("whole", "killed")]
                seconds = ran(command(problem, budget, given.data, folders[0]))
                # How runs are executed is measured once a study, and decides rounding.
                choices = [Ledger(str(folder)).choices for folder in folders]
                if choices[0].exists():
                    shutil.copytree(*choices)
                given_again = command(problem, budget, given.data, folders[1])
                at = killed(given_again, folders[1], given.count, seconds, rng)
                whole, after = map(left_by, folders)
                check_equal_budgets(whole.searches, problem)
                check_equal_budgets(after.searches, problem)
                check_same(whole, after, budget)
                print(
                    f"{problem}  {budget}: {len(after.searches)} files, {len(after.numbers)} runs, {seconds:.0f} s, "
                    f"killed with {at} records; equal. {shown(after.searches)}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
