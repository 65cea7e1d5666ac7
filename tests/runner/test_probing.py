"""Probes of kept checkpoints: bit for bit what tracking finds in the run, and refusals that say what there is."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepobs_func import analysis, probe_run, probes, random, records
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.probes.catalog import QUANTITIES, row_of
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import RunConfig, Training, make_plan, run
from deepobs_func.runner.batches import resident
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.order import epoch_order, valid_rows
from deepobs_func.runner.step import make_gather
from tests.runner import small_nets
from tests.runner.small import small_problem

EAGER = Execution(reason="as asked")
NAMES = (
    *("grad_norm", "distance", "update_size", "update_ratio", "alpha", "norm_test", "critical_batch_size", "mean_gsnr"),
    *("grad_hist_1d", "hess_max_ev", "hess_trace", "hess_spectrum", "grad_cov_spectrum"),
    *("grad_norm/layer", "update_ratio/layer", "hess_max_ev/layer", "noise_scale/layer"),
)


def config(folder: Path | None, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {"problem": "linear", "optimizer": "momentum", "lr": 0.05, "epochs": 2}
    values |= {"checkpoint_every": 1, "keep": 99, "output_dir": folder and str(folder / "results"), "data": "synthetic"}
    return RunConfig(**(values | changes))


def tracked(
    made: RunConfig, problem: Problem | None, execution: Execution, names: tuple[str, ...], every: int = 1
) -> dict[str, Any]:
    """What the same run finds while it goes, at every step or now and then."""
    same = dataclasses.replace(made, output_dir=None, checkpoint_every="auto", track=names, track_every=every)
    found: dict[str, Any] = run(same, problem, execution=execution).record.extra["tracked"]
    return found


def check_same(made: RunConfig, problem: Problem | None, execution: Execution, names: tuple[str, ...]) -> None:
    """A probe of every checkpoint, and of the start, has the bits of what the run tracked at that step."""
    record = run(made, problem, execution=execution).record
    assert record.path is not None
    given = {"problem": problem} if problem else {}
    steps = make_plan(made, problem).steps_per_epoch
    found = probe_run(record.path, names, at=[0, 1], **given).extra["probed"][-1]
    expected = tracked(made, problem, execution, names, every=steps)
    for name, column in found["quantities"].items():
        assert column["steps"] == [0, steps]
        was = [expected["quantities"][name][expected["steps"].index(step)] for step in (0, steps)]
        assert json.dumps(column["values"]) == json.dumps(was), name  # NaN equals itself in words


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.large) if kind in ("recurrent", "variational", "quadratic") else kind
        for kind in small_nets.PROBLEMS
    ],
)
def test_a_probe_has_the_bits_of_what_was_tracked(kind: str, tmp_path: Path) -> None:
    """Noise, moments, a recurrent state: the batch of the next step is made as the run makes it."""
    problem = small_nets.PROBLEMS[kind]()
    bn = {} if problem.separable else {"track_bn": "frozen" if problem.normalizes else "coupled"}
    names = tuple(name for name in NAMES if problem.measure.convex or not row_of(name).ggn)
    lr = {"optimizer": "adam", "lr": 0.01} if kind == "two_d" else {}  # with momentum it diverges
    check_same(config(tmp_path, problem=problem.name, **bn, **lr), problem, EAGER, names)


@pytest.mark.large
def test_also_of_augmented_data_a_torch_optimizer_and_a_schedule(tmp_path: Path) -> None:
    problem = small_nets.augmented()
    more = {"optimizer": "torch.optim.AdamW", "lr": 1e-3, "schedule": "cosine", "protocol": "deepobs-1.1.2"}
    channels_last = Execution(channels_last=True)
    check_same(config(tmp_path, problem=problem.name, **more), problem, channels_last, NAMES)


@pytest.mark.large
@pytest.mark.parametrize("steps", [1, 2])
def test_also_of_a_compiled_run(tmp_path: Path, steps: int) -> None:
    """The update of the step is made by the run's own compiled function, one step a call."""
    problem = small_problem()
    compiled = Execution(compile=True, compile_batch=True)
    made = config(tmp_path, problem=problem.name, optimizer="adam", lr=0.01, batch_size=24)
    check_same(made, problem, compiled, NAMES)
    # A run of several steps a call is probed by one step a call: the same update up to rounding.
    several = dataclasses.replace(made, output_dir=str(tmp_path / "several"))
    record = run(several, problem, execution=dataclasses.replace(compiled, steps_per_call=steps)).record
    found = probe_run(record.path, ["update_size"], at=[0], problem=problem).extra["probed"][-1]
    expected = tracked(made, problem, compiled, ("update_size",))["quantities"]["update_size"][0]
    assert found["quantities"]["update_size"]["values"] == [expected]


def test_every_quantity_can_be_probed(tmp_path: Path) -> None:
    problem = small_problem()
    record = run(config(tmp_path, problem="small", optimizer="sgd"), problem, execution=EAGER).record
    names = [name for name in QUANTITIES if name != "tic_diag"]  # a criterion of one's own has no GGN
    found = probe_run(record.path, names, at="last", problem=problem).extra["probed"][0]
    assert list(found["quantities"]) == names
    assert {tuple(column["steps"]) for column in found["quantities"].values()} == {(6,)}


def test_checkpoints_within_an_epoch_are_probed_too(tmp_path: Path) -> None:
    problem = small_problem()
    made = config(tmp_path, problem="small", checkpoint_every="2steps", train_log_interval=1)
    record = run(made, problem, execution=EAGER).record
    found = probe_run(record.path, "grad_norm,update_size", problem=problem).extra["probed"][0]
    expected = tracked(made, problem, EAGER, ("grad_norm", "update_size"))
    column = found["quantities"]["update_size"]
    assert column["steps"] == [2, 4, 6]
    assert column["values"][:2] == [expected["quantities"]["update_size"][step] for step in (2, 4)]
    with pytest.raises(ConfigError, match=r"at 1: .*those of 0, 2, and at step 2 of epoch 1, step 1 of epoch 2"):
        probe_run(record.path, "grad_norm", at=[1], problem=problem)


def test_the_mean_over_batches_and_its_error(tmp_path: Path) -> None:
    """Each batch is that of its own step; at the start nothing else differs for a quantity of the batch alone."""
    problem = small_problem()
    made = config(tmp_path, problem="small")
    record = run(made, problem, execution=EAGER).record
    found = probe_run(record.path, "norm_test,noise_scale/layer", at=[0], batches=4, problem=problem).extra["probed"][0]
    plan = make_plan(made, problem)
    training = Training(plan, EAGER)
    params, state = problem.init(training.key)
    inputs = [*training.batches.epoch(0, 1), *training.batches.epoch(1, 1)][:4]  # 3 batches in an epoch
    values = []
    for each in inputs:
        gram = probes.gram(problem, params, training.make_batch(state, each.one(0))).double()
        mean, B = gram.mean(), len(gram)  # noqa: N806
        values.append(float((((gram.diagonal().sum() - B * mean) / (B - 1)) / (B * mean)).sqrt()))
    column = found["quantities"]["norm_test"]
    assert column["values"] == [pytest.approx(np.mean(values), rel=1e-5)]
    assert column["standard_errors"] == [pytest.approx(np.std(values, ddof=1) / 2, rel=1e-3)]
    assert found["batches"] == 4
    assert len(found["quantities"]["noise_scale/layer"]["standard_errors"][0]) == 1


@pytest.mark.parametrize("split", [pytest.param("train", marks=pytest.mark.large), "valid", "test"])
def test_over_a_whole_data_set(split: str, tmp_path: Path) -> None:
    """Against dense float64 matrices of the same examples, taken as one batch."""
    problem = small_problem()
    made = config(tmp_path, problem="small", valid=32)
    ended = run(made, problem, execution=EAGER)
    names = ("grad_norm", "hess_max_ev", "hess_trace", "hess_spectrum", "norm_test", "noise_scale", "grad_cov_trace")
    names += ("grad_sq_norm", "critical_batch_size", "grad_diversity", "mean_gsnr", "early_stopping")
    names += ("hess_max_ev/layer", "hess_trace/layer", "grad_norm/layer", "mean_gsnr/layer")
    record = probe_run(ended.record.path, names, at="last", over=split, problem=problem)
    found = {name: column["values"][0] for name, column in record.extra["probed"][0]["quantities"].items()}
    batch = whole(ended, split)
    params = {name: leaf.double() for name, leaf in ended.state.carry.params.items()}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    losses = problem.loss(leaves, batch)
    G = np.stack([flat(torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)) for loss in losses])  # noqa: N806
    hessian = dense_hessian(losses.mean(), leaves)
    N, mean = len(G), G.mean(0)  # noqa: N806
    covariance = np.trace(np.cov(G.T, ddof=1))
    expected = {
        "grad_norm": np.linalg.norm(mean),
        "hess_max_ev": np.linalg.eigvalsh(hessian)[-1],
        "norm_test": np.sqrt(covariance / (N * mean @ mean)),
        "noise_scale": covariance * (N - 1) / N / (mean @ mean),
        "grad_cov_trace": covariance,
        "grad_sq_norm": mean @ mean - covariance / N,
        "critical_batch_size": covariance / (mean @ mean - covariance / N)
        if mean @ mean > covariance / N
        else math.inf,
        "grad_diversity": (G**2).sum() / (G.sum(0) @ G.sum(0)),
        "mean_gsnr": np.mean(mean**2 / (G.var(0) + 1e-5)),
        "early_stopping": 1 - N * np.mean(mean**2 / (G.var(0, ddof=1) + 1e-5)),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-4), name
    for name in ("grad_norm", "mean_gsnr", "hess_max_ev", "hess_trace"):  # the net is one layer
        assert found[f"{name}/layer"] == pytest.approx([found[name]], rel=1e-5)
    off = hessian - np.diag(np.diag(hessian))
    assert abs(found["hess_trace"] - np.trace(hessian)) < 5 * np.sqrt(2 * (off**2).sum() / 10)


def whole(ended: Any, split: str) -> Batch:
    """The examples of a split that a run counts, in one batch, in float64."""
    plan, data = ended.plan, resident(ended.plan)
    spec, key = plan.problem.dataset, random.key(plan.config.seed)
    chosen = {
        "train": epoch_order(plan.protocol, spec, key, 0, plan.batch_size, plan.valid).flatten(),
        "valid": valid_rows(spec, plan.batch_size, plan.valid, plan.device),
        "test": torch.arange(64),
    }[split]
    x, y = make_gather(plan.problem, augment=False)(data.test if split == "test" else data.train, chosen, ())
    return Batch.of(x.double(), y, state=plan.problem.init()[1])


def flat(parts: Any) -> np.ndarray:
    return torch.cat([part.detach().flatten() for part in parts]).numpy()


def dense_hessian(loss: torch.Tensor, leaves: dict[str, torch.Tensor]) -> np.ndarray:
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    entries = torch.cat([part.flatten() for part in first])
    return np.stack([flat(torch.autograd.grad(entry, list(leaves.values()), retain_graph=True)) for entry in entries])


def test_what_was_probed_is_in_the_record_and_in_the_frames(tmp_path: Path) -> None:
    problem = small_problem()
    made = config(tmp_path, problem="small", track=("grad_norm",), track_every=2)
    path = run(made, problem, execution=EAGER).record.path
    before = json.loads(Path(path).read_text())
    probe_run(path, "grad_norm,hess_max_ev,grad_norm/layer", at=[0], problem=problem)
    record = probe_run(path, "hess_max_ev", at=[0, 1, 2], problem=problem)
    assert record.path == path
    after = json.loads(Path(path).read_text())
    probed = after["deepobs_func"].pop("probed")
    assert after == before  # nothing else has changed
    assert [each["quantities"]["hess_max_ev"]["steps"] for each in probed] == [[0, 3, 6]]
    probe_run(path, "hess_max_ev", at=[1], over="test", problem=problem)
    frame = analysis.load(made.output_dir).tracked
    names = set(frame["quantity"].astype(str))
    assert names == {"grad_norm", "hess_max_ev", "grad_norm/(net)", "hess_max_ev (test)"}
    grad_norm = frame[frame["quantity"] == "grad_norm"]
    assert list(grad_norm["step"]) == [0, 2, 4]  # 0 was tracked and probed
    assert [*Path(made.output_dir).rglob("*.json")] == [Path(path)]


def test_another_file_and_a_run_without_a_record(tmp_path: Path) -> None:
    problem = small_problem()
    made = config(tmp_path, problem="small")
    path = run(made, problem, execution=EAGER).record.path
    copy = probe_run(path, "grad_norm", at=[0], problem=problem, output=tmp_path / "copy.json")
    assert copy.path == tmp_path / "copy.json"
    assert "probed" not in records.read(path).extra
    assert records.read(copy.path).extra["probed"]
    before = Path(copy.path).read_bytes()
    with pytest.raises(ConfigError, match=r"copy\.json is there already"):
        probe_run(path, "trace", at=[0], problem=problem, output=copy.path)
    assert Path(copy.path).read_bytes() == before
    checkpoint = sorted(tmp_path.rglob("*.safetensors"))[0]
    same = probe_run(checkpoint, "grad_norm", at="all", problem=problem)  # goes into the run's record
    assert same.path == path
    assert same.extra["probed"][0]["quantities"]["grad_norm"]["steps"] == [3]
    Path(path).unlink()
    alone = probe_run(checkpoint, "grad_norm", problem=problem)
    assert alone.path.name.endswith(".json.partial")
    assert alone.status == "interrupted"
    found = analysis.load(made.output_dir).tracked
    assert list(found["quantity"].astype(str)) == ["grad_norm"]
    again = probe_run(alone.path, "update_size", at=[1, 2], problem=problem)  # a partial record will do
    assert again.path == alone.path


def test_refusals(tmp_path: Path) -> None:
    problem = small_nets.PROBLEMS["dropout and batch norm"]()
    made = config(tmp_path, problem=problem.name)
    path = run(made, problem, execution=EAGER).record.path
    probe = lambda *given, **more: probe_run(path, *given, problem=problem, **more)
    with pytest.raises(ConfigError, match=r"at 5: there is no checkpoint after epoch 5 .* those of 0, 1, 2 \(0 is"):
        probe("grad_norm", at=[1, 5])
    with pytest.raises(ConfigError, match=r"'hess_max_e'. Did you mean 'hess_max_ev'"):
        probe("hess_max_e")
    with pytest.raises(ConfigError, match=r"quantities norm_test: normalised couples .* with bn coupled, frozen"):
        probe("grad_norm,norm_test")
    with pytest.raises(ConfigError, match=r"over a data set bn=None leaves a quantity undefined.*--bn eval"):
        probe("hess_max_ev", over="train")
    assert probe("hess_max_ev,norm_test", at="last", over="train", bn="eval").extra["probed"]
    with pytest.raises(ConfigError, match=r"'alpha' is of a step and its batch, not of a data set. Over one there are"):
        probe("alpha", over="test", bn="eval")
    with pytest.raises(ConfigError, match="over everything: it must be batch, train, valid or test"):
        probe("grad_norm", over="everything")
    with pytest.raises(ConfigError, match="over valid: the run set no examples aside"):
        probe("grad_norm", over="valid", bn="eval")
    with pytest.raises(ConfigError, match="batches 0: it must be a whole number from 1"):
        probe("grad_norm", batches=0)
    with pytest.raises(ConfigError, match="quantities: there is none"):
        probe("")
    for nothing in ((), ""):
        with pytest.raises(ConfigError, match=r"at: there is no epoch\. Give all, last, or epochs"):
            probe("grad_norm", at=nothing)
    with pytest.raises(ConfigError, match="at some: it must be all, last, or epochs"):
        probe("grad_norm", at="some")
    with pytest.raises(ConfigError, match="whose problem was made in Python"):
        probe_run(path, "grad_norm")
    with pytest.raises(ConfigError, match="is of another run than this code makes"):
        probe_run(path, "grad_norm", problem=dataclasses.replace(small_problem(), name=problem.name))
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps({**json.loads(Path(path).read_text()), "deepobs_func": {}}))
    with pytest.raises(DataError, match="does not say of which run it is"):
        probe_run(bare, "grad_norm")


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    made = config(tmp_path, problem="quadratic_deep", optimizer="sgd", lr=0.01, checkpoint_every="never")
    path = run(made, execution=EAGER).record.path
    for at in ("all", "last", [1]):
        with pytest.raises(ConfigError, match="Run it with --checkpoint-every 1 --keep 1000"):
            probe_run(path, "grad_norm", at=at)
    assert probe_run(path, "grad_norm", at=[0]).extra["probed"][0]["quantities"]["grad_norm"]["steps"] == [0]


@pytest.mark.parametrize("wrong", [{"quantities": "hess_max_ev,alpha", "bn": "eval"}, {"quantities": "hess_max_ev"}])
def test_a_data_set_is_not_read_for_what_is_refused(
    wrong: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of curvature do not come before a refusal."""
    problem = small_nets.PROBLEMS["dropout and batch norm"]()
    path = run(config(tmp_path, problem=problem.name, epochs=1), problem, execution=EAGER).record.path
    monkeypatch.setattr("deepobs_func.runner.probing.make_batches", lambda *given: pytest.fail("it was read"))
    with pytest.raises(ConfigError, match=r"not of a data set|bn=None leaves a quantity undefined"):
        probe_run(path, at=[0], over="train", problem=problem, **wrong)


def test_a_recurrent_state_goes_on_through_a_data_set(tmp_path: Path) -> None:
    """Against the mean of gradients, batch by batch, each from the state that the one before it left."""
    problem = dataclasses.replace(small_nets.PROBLEMS["recurrent"](), separable=True)  # it has no batch norm
    ended = run(config(tmp_path, problem=problem.name, epochs=1), problem, execution=EAGER)
    found = probe_run(ended.record.path, "grad_norm", at="last", over="test", problem=problem).extra["probed"][0]
    params, batches = ended.state.carry.params, whole(ended, "test")
    size, state, grads = problem.batch_size, problem.init()[1], []
    state = state._replace(carry=problem.zero_carry(size))
    for first in range(0, len(batches.y), size):
        rows = slice(first, first + size)
        batch = Batch(batches.x[rows].float(), batches.y[rows], {}, state)
        leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
        losses, after = problem.loss_and_state(leaves, batch)
        grads.append(flat(torch.autograd.grad(losses.mean(), list(leaves.values()))))
        state = state._replace(carry={name: leaf.detach() for name, leaf in after.carry.items()})
    assert len(grads) > 1
    assert found["quantities"]["grad_norm"]["values"] == [pytest.approx(np.linalg.norm(np.mean(grads, 0)), rel=1e-5)]
