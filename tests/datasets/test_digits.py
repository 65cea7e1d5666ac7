"""The digits that come with the package: what they are, and that nothing is downloaded or written for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from deepobs_func import RunConfig, cli, datasets, run
from deepobs_func.datasets import loading
from deepobs_func.datasets.verifying import verify

# How often each digit occurs in the test set of the source, by its own description.
COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
SPEC = datasets.spec("digits")


def shown(*words: str) -> str:
    result = CliRunner().invoke(cli.cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_both_splits_are_the_published_digits() -> None:
    data = loading.load(SPEC, "/no/such/folder")
    assert [tuple(split.x.shape) for split in (data.train, data.test)] == [(1437, 1, 8, 8), (360, 1, 8, 8)]
    labels = np.concatenate([data.train.y.numpy(), data.test.y.numpy()])
    assert np.bincount(labels).tolist() == COUNTS
    assert (int(data.train.x.min()), int(data.train.x.max())) == (0, 16)
    assert data.train.x[0, 0, 0].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]
    assert (data.source, data.synthetic) == ("package", False)
    assert "equal to the published data" in verify(SPEC, "/no/such/folder")


def test_stored_values_become_numbers_from_0_to_1() -> None:
    x = SPEC.function("prepare")(loading.load(SPEC, "anywhere").train.x, torch.float32)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)


def test_the_stand_in_is_asked_for_in_vain() -> None:
    assert loading.load(SPEC, loading.SYNTHETIC).source == "package"


def test_commands_know_that_they_are_there(tmp_path: Path) -> None:
    assert "digits_mlp" in shown("list", "--set", "modern")
    assert "part of this package" in shown("data", "download", "digits", "--data", str(tmp_path))
    assert "1,437 + 360 read" in shown("data", "verify", "digits", "--data", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_net_learns_them(tmp_path: Path) -> None:
    config = RunConfig("digits_mlp", "adam", 1e-2, epochs=3, data=tmp_path, output_dir=None, compile="off")
    record = run(config).record
    assert record.test_accuracies[-1] > 0.85
