"""Whatever a file holds, it is a run or a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.analysis import benchmark_table, load
from deepobs_func.analysis.parsing import Parsed, Unread, curves_of, parse
from tests.analysis.trees import of_1_2, record

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
OURS = record(extra={"timings": {"train": [1.0, 2.0]}, "calls": {"gradients": [1, 2]}, "study": {}}).to_json()
MORE = (
    "tracked",
    "probed",
    "environment",
    "data",
    "code",
    "run_id",
    "execution_id",
    "steps_per_epoch",
    "divergence",
    "stopped",
)
KEYS = [*OURS, *(f"deepobs_func.{name}" for name in (*OURS["deepobs_func"], *MORE))]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files") / "random_seed__42__x.json"


def parsed(file: Path, content: Any) -> Parsed | Unread:
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8", errors="replace")
    return parse(str(file))


@given(key=st.sampled_from(KEYS), value=values)
@settings(max_examples=25)
def test_any_value_anywhere_is_a_run_or_a_reason(file: Path, key: str, value: Any) -> None:
    content = json.loads(json.dumps(OURS))
    part, _, name = key.rpartition(".")
    (content[part] if part else content)[name] = value
    found = parsed(file, content)
    assert isinstance(found, Parsed) or found.reason
    results = load(file)
    assert len(results.runs) + len(results.unread) == 1
    if len(results.complete.runs):
        assert len(benchmark_table(results)) == 1


@given(key=st.sampled_from(list(of_1_2(record()))), value=values)
@settings(max_examples=25)
def test_any_value_in_a_file_of_1_2_is_a_run_or_a_reason(file: Path, key: str, value: Any) -> None:
    found = parsed(file, {**of_1_2(record()), key: value})
    assert isinstance(found, Parsed) or found.reason


@given(length=st.integers(0, len(json.dumps(OURS))))
@settings(max_examples=25)
def test_a_file_cut_off_anywhere_is_listed(file: Path, length: int) -> None:
    whole = json.dumps(OURS)
    found = parsed(file, whole[:length])
    assert isinstance(found, Parsed if length == len(whole) else Unread)


@given(text=st.text(max_size=20))
@settings(max_examples=25)
def test_any_text_is_a_reason(file: Path, text: str) -> None:
    found = parsed(file, text)
    assert isinstance(found, Unread)
    assert found.reason


@given(losses=st.lists(st.floats(), min_size=1, max_size=5))
def test_numbers_come_back_as_they_were_written(file: Path, losses: list[float]) -> None:
    found = parsed(file, record(losses=losses, accuracies=None, num_epochs=len(losses) - 1).to_json())
    assert isinstance(found, Parsed)
    assert np.array_equal(found.curves["test_loss"], losses, equal_nan=True)


def test_calls_are_counted_in_gradient_equivalents() -> None:
    calls = {"gradients": [2, 4], "products": [10, 20], "evaluations": [3, 6]}
    measured = {"test_losses": [1.0, 0.5, 0.25]}
    assert curves_of(measured, {"calls": calls})["cost"].tolist() == [0.0, 2 + 20 + 1, 4 + 40 + 2]
    assert curves_of(measured, {"calls": {"gradients": [2, 4]}})["cost"].tolist() == [0.0, 2.0, 4.0]
    assert np.isnan(curves_of(measured)["cost"]).all()  # not known


def test_what_was_probed_stands_beside_what_was_tracked(file: Path) -> None:
    def column(steps: list[int], values: list[Any]) -> dict[str, Any]:
        return {"steps": steps, "values": values}

    tracked = {"steps": [0, 5], "bn": None, "quantities": {"a": [1.0, 2.0]}}
    probed = [
        {"over": "batch", "batches": 1, "bn": None, "quantities": {"a": column([3, 5], [1.5, 2.0])}},
        {"over": "train", "batches": None, "bn": "eval", "quantities": {"a": column([3], [7.0])}},
        {"over": "train", "batches": 1, "quantities": {"a": column([3], [7.5])}},
        {"over": "train", "batches": 4, "quantities": {"a": column([3], [7.2])}},
        {"over": "train", "batches": None, "quantities": {"a": column([3], [7.1])}},
        {"over": "batch", "batches": 4, "layers": ["x", "y"], "quantities": {"b/layer": column([3], [[8.0, 9.0]])}},
    ]
    found = parsed(file, record(extra={"tracked": tracked, "probed": probed}).to_json())
    assert isinstance(found, Parsed)
    columns = {name: (steps.tolist(), values.tolist()) for name, (steps, values) in found.tracked.items()}
    assert columns == {
        "a": ([0, 3, 5], [1.0, 1.5, 2.0]),
        "a (train, bn eval)": ([3], [7.0]),
        "a (train, 1 batch)": ([3], [7.5]),
        "a (train, 4 batches)": ([3], [7.2]),
        "a (train)": ([3], [7.1]),
        "b/x (4 batches)": ([3], [8.0]),
        "b/y (4 batches)": ([3], [9.0]),
    }


def test_shorter_columns_end_in_nan() -> None:
    found = curves_of({"train_losses": [1.0, 2.0, 3.0], "test_losses": [1.0]}, {"timings": {"train": [0.5]}})
    assert found["test_loss"].tolist()[0] == 1.0
    assert np.isnan(found["test_loss"][1:]).all()
    assert found["seconds"].tolist()[:2] == [0.0, 0.5]
    assert math.isnan(found["seconds"][2])
    assert {len(column) for column in found.values()} == {3}
