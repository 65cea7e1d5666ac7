"""How many small runs an hour: a sweep beside a shell loop, and beside tuners that drive a plain loop.

    python -m benchmarks.studies --jobs 2

A run is two_d_beale, 20 epochs, one of many learning rates, by SGD: evaluated before training and after each epoch. The
sweep's and the shell's runs are written as records; the plain loop (`benchmarks.plain_loops.InMemory`) returns its last
test loss alone. Seconds of the clock, from the call to its end, so with all that is imported and compiled; as many runs
as fill a minute or so. Ray Tune and Optuna are measured where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.recording import environment

PROBLEM, EPOCHS = "two_d_beale", 20
RESULTS = Path(__file__).parent / "results" / "studies.json"


def rates(count: int) -> list[float]:
    """Learning rates, none twice."""
    return [1e-6 * 10 ** (2 * index / count) for index in range(count)]


def by_sweep(count: int, jobs: int) -> None:
    """`deepobs sweep`."""
    from deepobs_func.study import Study, sweep

    with tempfile.TemporaryDirectory() as folder:
        study = Study([PROBLEM], {"sgd": {"lr": rates(count)}}, epochs=EPOCHS, output_dir=f"{folder}/results")
        swept = sweep(study, jobs=jobs)
        assert len(swept.outcomes) == count
        assert not swept.failed


def by_shell(count: int, jobs: int) -> None:
    """A process for each run, so many at a time."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = f"{PROBLEM} --optimizer sgd --epochs {EPOCHS} -q --output-dir {folder}"
        head = f"{sys.executable} -m deepobs_func run {fixed}"
        text = "\n".join(map(str, rates(count)))
        command = ["xargs", "-P", str(jobs), "-I{}", "sh", "-c", f"{head} --lr {{}} > /dev/null"]
        subprocess.run(command, input=text, text=True, check=True)


def plain_run(lr: float) -> float:
    """The run as one would write it: a plain loop over tensors in memory."""
    import torch

    from benchmarks.plain_loops import InMemory
    from deepobs_func import problems
    from deepobs_func.datasets.loading import load

    torch.set_num_threads(1)
    problem = problems.get(PROBLEM)
    loop = InMemory(problem, load(problem.dataset, "", "cpu"))
    for group in loop.optimizer.param_groups:
        group["lr"] = lr
    return [loop.epoch() for _ in range(EPOCHS)][-1][-1]


def by_optuna(count: int, jobs: int) -> None:
    """Optuna's own loop, in processes that share a journal."""
    code = (
        "import sys, optuna; from optuna.storages import JournalStorage; "
        "from optuna.storages.journal import JournalFileBackend; from benchmarks.studies import plain_run; "
        "optuna.logging.set_verbosity(40); "
        "study = optuna.create_study(storage=JournalStorage(JournalFileBackend(sys.argv[1])), study_name='x', "
        "load_if_exists=True, sampler=optuna.samplers.RandomSampler()); "
        "loss = lambda trial: plain_run(trial.suggest_float('lr', 1e-6, 1e-4, log=True)); "
        "study.optimize(loss, n_trials=int(sys.argv[2]))"
    )
    with tempfile.TemporaryDirectory() as folder:
        calls = [
            subprocess.Popen([sys.executable, "-c", code, f"{folder}/journal", str(count // jobs)]) for _ in range(jobs)
        ]
        assert all(call.wait() == 0 for call in calls)


def by_ray(count: int, jobs: int) -> None:
    """Ray Tune, in processes that stay for the next trial."""
    import ray
    from ray import tune

    found = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {"PYTHONPATH": os.pathsep.join(found), "OMP_NUM_THREADS": "1"}
    ray.init(num_cpus=jobs, log_to_driver=False, include_dashboard=False, runtime_env={"env_vars": variables})
    try:
        with tempfile.TemporaryDirectory() as folder:
            tuner = tune.Tuner(
                lambda config: {"loss": plain_run(config["lr"])},
                param_space={"lr": tune.grid_search(rates(count))},
                tune_config=tune.TuneConfig(reuse_actors=True),
                run_config=tune.RunConfig(storage_path=folder, verbose=0),
            )
            found = tuner.fit()
        assert len(found) == count
        assert not found.errors
    finally:
        ray.shutdown()


WAYS: dict[str, tuple[Callable[[int, int], None], int]] = {
    "deepobs sweep": (by_sweep, 1440),
    "shell loop of deepobs run": (by_shell, 16),
    "Optuna, plain loop": (by_optuna, 160),
    "Ray Tune, plain loop": (by_ray, 80),
}


def measured(name: str, jobs: int, count: int | None = None) -> dict[str, Any]:
    """Seconds and runs an hour."""
    way, usual = WAYS[name]
    count = count or usual
    start = time.perf_counter()
    try:
        way(count, jobs)
    except ImportError as error:
        return {"name": name, "missing": str(error)}
    seconds = time.perf_counter() - start
    return {"name": name, "runs": count, "seconds": round(seconds, 1), "runs_an_hour": round(3600 * count / seconds)}


def main() -> None:
    """Measures each way, and keeps the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"ways": []}
    found = {each["name"]: each for each in old["ways"]}
    for name in given.ways:
        found[name] = measured(name, given.jobs, given.count)
        print(found[name], flush=True)
    content = {"environment": environment(), "jobs": given.jobs, "ways": list(found.values())}
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
