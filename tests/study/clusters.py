"""A sweep on a Ray cluster of two nodes on this machine, of which one is killed: `python -m tests.study.clusters`."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deepobs_func.study.engines.ray import RayPool
from deepobs_func.study.sweeping import sweep
from tests.study.kills import results, study

MEMORY = {"object_store_memory": 150_000_000}  # bytes; nothing is put into it


def main() -> None:
    """Compares a sweep that loses a node with one on worker processes of this machine."""
    import ray
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as place:
        local, spread = Path(place, "local"), Path(place, "spread")
        epochs = 12
        sweep(study(local, epochs), jobs=2, threads=1)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **MEMORY})
        node = cluster.add_node(num_cpus=1, **MEMORY)
        ray.init(address=cluster.address, log_to_driver=False)
        lost: list[float] = []

        def watch(scheduler: Any, outcomes: Any) -> None:
            if len(outcomes) >= 4 and not lost:
                lost.append(time.monotonic())
                cluster.remove_node(node, allow_graceful=False)

        make = functools.partial(RayPool, cpus=1)
        swept = sweep(study(spread, epochs), make=make, watch=watch, tell=print)
        print(swept.counts(), "a node lost" if lost else "no node lost")
        ray.shutdown()
        cluster.shutdown()
        expected, found = results(local), results(spread)
        print(f"{len(found)} of {len(expected)} runs; {sum(found[i] == expected[i] for i in expected)} equal")
        assert lost
        assert found == expected


if __name__ == "__main__":
    sys.exit(main())
