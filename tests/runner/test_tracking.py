"""Tracked quantities: those of the steps that were made, and no trace of them in the run itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deepobs_func import datasets, problems, random, records
from deepobs_func.datasets.loading import Split
from deepobs_func.errors import ConfigError
from deepobs_func.probes.catalog import PRESETS, QUANTITIES, SPECTRA
from deepobs_func.problems import measures
from deepobs_func.runner import RunConfig
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.step import Carry, StepInput, make_batch, make_train_step
from deepobs_func.runner.tracking import is_due
from tests.runner.small import recorded


def config(**changes: Any) -> RunConfig:
    defaults = {"problem": "quadratic_deep", "optimizer": "sgd", "lr": 0.01, "epochs": 2, "output_dir": None}
    return RunConfig(**{**defaults, **changes})


def names(**changes: Any) -> tuple[str, ...]:
    return make_plan(config(**changes)).tracked


def test_tracking_leaves_the_run_as_it_is() -> None:
    plain, tracked = recorded(config()), recorded(config(track=("full",), track_every=3))
    assert plain.minibatch_train_losses == tracked.minibatch_train_losses
    assert plain.test_losses == tracked.test_losses
    assert plain.extra["run_id"] == tracked.extra["run_id"]
    assert "tracked" not in plain.extra
    assert "track" not in plain.extra["timings"]


def test_every_quantity_of_every_third_step_is_in_the_record(tmp_path: Path) -> None:
    record = recorded(config(track=("full",), track_every=3, output_dir=str(tmp_path)))
    tracked = records.read(record.path).extra["tracked"]
    assert tracked["steps"] == [0, 3, 6, 9, 12]  # of 2 x 7
    assert tracked["every"] == 3
    assert list(tracked["quantities"]) == [name for name in QUANTITIES if name not in SPECTRA]
    assert all(len(values) == 5 for values in tracked["quantities"].values())
    assert len(record.extra["timings"]["track"]) == 2
    assert all(seconds > 0 for seconds in record.extra["timings"]["track"])


def test_quantities_are_those_of_the_steps_own_batch() -> None:
    """One step of SGD on a quadratic whose Hessian is known; the update is `lr g`, the curvature H."""
    tracked = recorded(config(track=("full",), track_every=100)).extra["tracked"]["quantities"]
    hessian = problems.get("quadratic_deep").init(0)[1].moments["hessian"].double()
    norm, size, alpha = (tracked[name][0] for name in ("grad_norm", "update_size", "alpha"))
    assert size == pytest.approx(0.01 * norm, rel=1e-4)
    assert tracked["distance"][0] == pytest.approx(size)
    assert tracked["hess_max_ev"][0] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)
    # Hutchinson with 10 Rademacher vectors: 5 standard deviations, sqrt(2 (|H|^2 - sum of H_jj^2) / 10)
    deviation = float((2 * (hessian.square().sum() - hessian.diagonal().square().sum()) / 10).sqrt())
    assert abs(tracked["hess_trace"][0] - float(hessian.trace())) < 5 * deviation
    assert -1 < alpha < 0  # the rate is below the inverse curvature
    assert tracked["cabs"][0] == pytest.approx(0.01 * tracked["noise_scale"][0] * norm**2 / 353, rel=0.2)
    assert sum(tracked["grad_hist_1d"][0]) == 128 * 100


def test_cabs_sees_the_learning_rate_of_its_step() -> None:
    changed = {"lr_sched_epochs": (1,), "lr_sched_factors": (0.1,)}
    tracked = recorded(config(track=("cabs", "update_size", "grad_norm"), track_every=7, **changed)).extra["tracked"]
    size, norm = tracked["quantities"]["update_size"], tracked["quantities"]["grad_norm"]
    assert tracked["steps"] == [0, 7]
    assert [s / n for s, n in zip(size, norm, strict=True)] == pytest.approx([0.01, 0.001], rel=1e-3)
    plan = make_plan(config(**changed))
    assert [plan.lr_at(step) for step in (0, 6, 7, 13)] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_what_is_not_defined_is_an_error_by_name_and_left_out_of_a_preset() -> None:
    with pytest.raises(ConfigError, match=r"track cabs: .*SGD without momentum, not for adam; noise_scale"):
        names(optimizer="adam", track=("cabs",))
    for optimizer in ("sgd", "torch.optim.SGD"):
        with pytest.raises(ConfigError, match=rf"track cabs: .*not for {optimizer} with clipped gradients"):
            names(optimizer=optimizer, clip_norm=1.0, track=("cabs",))
    with pytest.raises(ConfigError, match=r"track cabs: .*not for torch.optim.SGD"):
        names(optimizer="torch.optim.SGD", hyperparams={"momentum": 0.9}, track=("cabs",))
    assert "cabs" not in names(optimizer="adam", track=("economy",))
    assert names(track=("economy",)) == PRESETS["economy"]
    assert names(optimizer="torch.optim.SGD", track=("cabs",)) == ("cabs",)
    with pytest.raises(ConfigError, match=r"track early_stopping: .*batch of 2 or more; the batch size is 1"):
        names(batch_size=1, track=("early_stopping",))
    with pytest.raises(ConfigError, match=r"track tic_diag: two_d_beale has no GGN; tic_trace"):
        names(problem="two_d_beale", track=("tic_diag",))
    with pytest.raises(ConfigError, match=r"track norm_test: svhn_wrn164 couples .*track_bn coupled"):
        names(problem="svhn_wrn164", track=("grad_norm", "norm_test"))
    assert names(problem="svhn_wrn164", track=("norm_test",), track_bn="frozen") == ("norm_test",)
    assert names(problem="svhn_wrn164", track=("grad_norm",)) == ("grad_norm",)
    with pytest.raises(ConfigError, match=r"track ntk_spectrum: a batch of 128 has 12800 outputs .* more than 4096"):
        names(track=("ntk_spectrum",))
    assert names(track=("spectra",)) == SPECTRA[:2]
    with pytest.raises(ConfigError, match=r"track noise_scale/layer: svhn_wrn164 couples"):
        names(problem="svhn_wrn164", track=("noise_scale/layer",))


def test_quantities_of_layers_name_their_layers() -> None:
    tracked = recorded(config(track=("grad_norm/layer", "trace"), track_every=7)).extra["tracked"]
    assert tracked["layers"] == ["(net)"]  # of the quadratic, which is one
    assert list(tracked["quantities"]) == ["grad_norm/layer", "hess_trace"]
    assert [len(values) for values in tracked["quantities"]["grad_norm/layer"]] == [1, 1]


def test_a_run_that_diverges_is_tracked_to_its_end() -> None:
    """The Hessian is not finite there: its eigenvalue is NaN, and no error of LAPACK's ends the run."""
    made = config(problem="two_d_beale", lr=10.0, track=("hess_max_ev",), track_every=1, epochs=3)
    record = recorded(made)
    assert record.status == "diverged"
    assert math.isnan(record.extra["tracked"]["quantities"]["hess_max_ev"][-1])


TWINS = [
    ("sgd", "torch.optim.SGD", {}, {}),
    ("momentum", "torch.optim.SGD", {"momentum": 0.9}, {"momentum": 0.9}),
    ("adam", "torch.optim.Adam", {}, {}),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "own", "hyper"),
    [pytest.param(*twin, id=twin[0], marks=[pytest.mark.large] if twin[0] != "adam" else []) for twin in TWINS],
)
def test_a_torch_twin_has_the_same_quantities(
    ours: str, theirs: str, own: dict[str, Any], hyper: dict[str, Any]
) -> None:
    """The parameters before a step are where they were, and those after it where the next step finds them."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    generator = np.random.default_rng(0)
    data = generator.normal(size=(96, 5)).astype(np.float32), generator.integers(0, 3, size=96)
    mine = problems.from_module(
        net, measures.cross_entropy, datasets.from_arrays("mine", data, data), name="mine", batch_size=16
    )
    settings = {"track": ("full",), "compile": "off", "lr": 0.02, "track_every": 5}
    for name, problem in (("mine", mine), ("quadratic_deep", None)):
        first, second = (
            recorded(config(problem=name, optimizer=optimizer, hyperparams=given, **settings), problem).extra["tracked"]
            for optimizer, given in ((ours, own), (theirs, hyper))
        )
        assert first["steps"] == second["steps"]
        assert first["quantities"].keys() == second["quantities"].keys()
        assert all(size > 0 for size in second["quantities"]["update_size"])
        for quantity, values in first["quantities"].items():
            seen, expected = np.array(second["quantities"][quantity]), np.array(values)
            if "hist" in quantity:  # an element at the edge of a bin may round to the other side
                assert np.abs(seen - expected).sum() <= 1e-3 * expected.sum()
            else:
                np.testing.assert_allclose(seen, expected, rtol=2e-4, atol=1e-4, err_msg=quantity)


class Renamed(torch.optim.SGD):
    """A subclass of which nothing is known."""


def test_plain_sgd_is_the_class_itself_by_whatever_path() -> None:
    assert names(optimizer="torch.optim.sgd.SGD", track=("cabs",)) == ("cabs",)
    assert names(optimizer="tests.runner.test_tracking.PlainSGD", track=("cabs",)) == ("cabs",)
    for path, hyper in (("torch.optim.SGD", {"maximize": True}), ("tests.runner.test_tracking.Renamed", {})):
        with pytest.raises(ConfigError, match="not for"):
            names(optimizer=path, hyperparams=hyper, track=("cabs",))


PlainSGD = torch.optim.SGD


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"Unknown quantity to track: 'grad_nrom'\. Did you mean 'grad_norm'\?"):
        names(track=("grad_nrom",))
    with pytest.raises(ConfigError, match="track_every 0: it must be a whole number from 1, or log"):
        names(track=("grad_norm",), track_every=0)
    with pytest.raises(ConfigError, match="Unknown choice for track_bn 'on'"):
        names(track=("grad_norm",), track_bn="on")


@pytest.mark.parametrize("every", [1, 7, "log"])
def test_schedules_start_at_the_first_step(every: int | str) -> None:
    due = [step for step in range(2000) if is_due(step, every)]
    assert due[0] == 0
    if every == "log":
        assert due[:14] == [0, 1, 2, 3, 5, 6, 7, 10, 12, 15, 19, 25, 31, 39]
        assert 1000 in due
    else:
        assert due == list(range(0, 2000, int(every)))


@pytest.mark.parametrize("name", ["mnist_vae", "tolstoi_char_rnn"])
def test_the_tracked_batch_is_the_one_of_the_step(name: str) -> None:
    """With its noise and its recurrent state: the loss is the one that the step reports."""
    problem, key = problems.get(name), random.key(3)
    optimizer = make_plan(config(problem=name)).optimizer
    x, y = problem.dataset.function("fake")(problem.dataset, key, 4, torch.float32)
    split = Split((x * 255).to(torch.uint8) if x.is_floating_point() else x, y)
    params, state = problem.init(0)
    carried = {name: torch.randn_like(zeros) for name, zeros in problem.zero_carry(4).items()}
    carry = Carry(params, optimizer.init(params, key), state._replace(carry=carried))
    given = StepInput(split, torch.arange(4)[None], key[None])
    _, metrics = make_train_step(problem, optimizer, Execution())(carry, given)
    batch = make_batch(problem)(carry.state, given.one(0))
    assert float(problem.loss(params, batch).mean()) == pytest.approx(float(metrics.loss), rel=1e-5)


def test_no_recompilation_in_a_run_with_schedule_tracking_and_evaluation() -> None:
    """One graph for the step, and never a second."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    scheduled = {"lr_sched_epochs": (1, 2), "lr_sched_factors": (0.5, 0.1), "epochs": 3}
    with torch._dynamo.config.patch(error_on_recompile=True):
        recorded(config(compile="on", track=("economy",), track_every=5, **scheduled))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
