"""`torchrun` with a process that is killed in the middle: the run goes on from its checkpoint to the same numbers.

    python -m tests.runner.lost_ranks FOLDER [KILLED]

is what each process does; `KILLED` is the step at which process 1 of the first start ends without a word.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from deepobs_func import RunConfig, run
from deepobs_func.runner.callbacks import Callback, Logged
from deepobs_func.runner.distributed import joined

OPTIONS: dict[str, Any] = {"lr": 0.01, "epochs": 3, "batch_size": 128, "data": "synthetic", "device": "cpu"}
OPTIONS |= {"compile": "off", "checkpoint_every": "2steps", "train_log_interval": 1}


def killed_at(step: int) -> Callback:
    """A callback that ends process 1 as the system would, once."""

    def callback(event: Any) -> None:
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1"
        if first and isinstance(event, Logged) and event.epoch * event.plan.steps_per_epoch + event.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    return callback


def main(folder: str, killed: str = "") -> None:
    """A run that resumes what is there."""
    callbacks = [killed_at(int(killed))] if killed else []
    if os.environ["TORCHELASTIC_RESTART_COUNT"] != "0" and os.environ["RANK"] == "1":
        time.sleep(5)  # so that process 0 looks for process 1 where that of the first start was
    with joined("cpu"):
        config = RunConfig("quadratic_deep", "adam", output_dir=str(Path(folder)), **OPTIONS)
        run(config, callbacks=callbacks, resume=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
