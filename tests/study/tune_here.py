"""`python -m tests.study.tune_here ARGS`: `deepobs tune ARGS` whose trials run in its own process."""

from __future__ import annotations

import sys
from unittest import mock

from deepobs_func import cli
from deepobs_func.study import tuning
from tests.study.in_process import Pools


def main() -> None:
    pools = Pools()
    with mock.patch.object(tuning, "_default_pool", return_value=pools):
        sys.argv[1:1] = ["tune"]
        cli.main()


if __name__ == "__main__":
    main()
