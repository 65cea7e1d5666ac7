"""Means over batches: of a ratio, the ratio of the means; of what each batch has on a grid of its own, none."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepobs_func import probe_run
from deepobs_func.errors import ConfigError
from deepobs_func.runner import RunConfig, run
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.probe_means import mean, mean_of, ratio_of_means


def test_a_mean_and_its_error_entry_by_entry() -> None:
    values = np.random.default_rng(0).normal(size=(5, 2))
    found, errors = mean(values.tolist())
    np.testing.assert_allclose(found, values.mean(0))
    np.testing.assert_allclose(errors, values.std(0, ddof=1) / math.sqrt(5))
    assert mean([[1.0, 2.0]]) == ([1.0, 2.0], None)


def test_the_error_of_a_ratio_is_that_of_many_repetitions() -> None:
    """Against the spread of the ratios of 4000 samples of 50 batches."""
    draws = np.random.default_rng(1).normal([6.0, 2.0], [1.0, 0.3], size=(4000, 50, 2))
    ratios = draws[..., 0].mean(1) / draws[..., 1].mean(1)
    errors = [ratio_of_means(one[:, 0].tolist(), one[:, 1].tolist())[1] for one in draws[:200]]
    assert np.mean(errors) == pytest.approx(ratios.std(), rel=0.05)


def test_a_critical_batch_size_is_a_ratio_of_means() -> None:
    """One batch whose squared gradient is estimated as negative does not make it infinite."""
    each = [
        {"critical_batch_size": math.inf, "grad_cov_trace": 3.0, "grad_sq_norm": -1.0},
        {"critical_batch_size": 1.0, "grad_cov_trace": 5.0, "grad_sq_norm": 5.0},
    ]
    value, error = mean_of("critical_batch_size", each)
    assert value == 8 / 4
    assert error == pytest.approx(math.sqrt((5.0**2 + 5.0**2) / 2) / 2)  # 3 + 2 and 5 - 10
    assert mean_of("critical_batch_size", each[:1]) == (math.inf, None)
    lists = [{f"{name}/layer": [value, value] for name, value in one.items()} for one in each]
    assert mean_of("critical_batch_size/layer", lists) == ([value, value], [error, error])
    assert ratio_of_means([1.0, 1.0], [-1.0, 0.5])[0] == math.inf


def test_of_a_run(tmp_path: Path) -> None:
    made = RunConfig("quadratic_deep", "sgd", 0.01, epochs=1, output_dir=str(tmp_path / "results"))
    path = run(made, execution=Execution()).record.path
    assert path is not None
    names = "critical_batch_size,grad_cov_trace,grad_sq_norm"
    alone, found = (probe_run(path, each, at=[0], batches=3) for each in ("critical_batch_size", names))
    assert list(alone.extra["probed"][0]["quantities"]) == ["critical_batch_size"]
    columns = found.extra["probed"][0]["quantities"]
    ratio = columns["grad_cov_trace"]["values"][0] / columns["grad_sq_norm"]["values"][0]
    assert columns["critical_batch_size"]["values"] == [pytest.approx(ratio, rel=1e-12)]
    assert columns["critical_batch_size"] == alone.extra["probed"][0]["quantities"]["critical_batch_size"]
    with pytest.raises(ConfigError, match=r"hess_spectrum: each batch has a grid of its own.*batches 3.*over train"):
        probe_run(path, "grad_norm,spectrum", at=[0], batches=3)
    assert probe_run(path, "spectrum", at=[0], batches=1).extra["probed"]
