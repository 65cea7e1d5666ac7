"""Names of settings: DeepOBS's own, one for each setting, and short enough for every file system."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deepobs_func import records
from deepobs_func.records import RunRecord, float2str, folder_of, setting_name
from tests.records.test_records import make_record

BASELINES = next(
    (found for parent in Path(__file__).parents for found in parent.glob("shared/data/deepobs_baselines")), None
)


def published_files() -> Iterator[Path]:
    return iter(()) if BASELINES is None else BASELINES.rglob("random_seed__*.json")


def only_what_names_need(path: Path) -> RunRecord:
    """A published file without its curves, which take long to read as a record."""
    content = json.loads(path.read_text())
    return records.RunRecord(
        **{name: content.get(name) for name in RunRecord.__dataclass_fields__ if name not in ("extra", "path", "note")}
    )


NAMES = [  # of published settings, one of each kind
    (
        {"hyperparams": {}, "learning_rate": 10**-1.8, "num_epochs": 100},
        "num_epochs__100__batch_size__128__lr__1.5848931925e-02",
    ),
    (
        {"hyperparams": {"momentum": 0.99, "use_nesterov": False}, "learning_rate": 10**-2.6, "num_epochs": 350},
        "num_epochs__350__batch_size__128__momentum__9.9e-01__use_nesterov__False__lr__2.5118864315e-03",
    ),
    (
        {"hyperparams": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}, "learning_rate": 1e-5, "num_epochs": 50},
        "num_epochs__50__batch_size__128__beta1__9.e-01__beta2__9.99e-01__epsilon__1.e-08__lr__1.e-05",
    ),
]


@pytest.mark.parametrize(("changes", "name"), NAMES)
def test_names_that_are_published(changes: dict[str, Any], name: str) -> None:
    assert setting_name(make_record(**changes)) == name
    ours = {"protocol": "deepobs-1.1.2", "configuration": {"precision": "float32", "on_divergence": "continue"}}
    assert setting_name(make_record(**changes, extra=ours)) == name


def test_all_published_names() -> None:
    """Every folder of the published baselines, where they are at hand."""
    files = list(published_files())
    assert len(files) in (0, 1080)
    for path in files:
        assert BASELINES is not None
        assert folder_of(only_what_names_need(path), BASELINES) == path.parent


# Names say one thing only

TEXT = st.text(max_size=12) | st.sampled_from(
    ["True", "None", "nan", "1", "1.e-01", "a_b", "a__b", "_a", "(1)", "lr", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
KEYS = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["momentum", "weight_decay", "lr", "lr_schedule", "a__b", "a_", "_a", "protocol", "λ"]
)
RECORDS = st.fixed_dictionaries(
    {
        "hyperparams": st.dictionaries(KEYS, VALUES, max_size=4),
        "weight_decay": st.none() | st.floats(0, 1),
        "num_epochs": st.integers(1, 1000),
        "batch_size": st.integers(1, 1000),
        "learning_rate": st.floats(1e-10, 1e10),
        "schedule": st.lists(
            st.tuples(st.integers(1, 50), st.floats(1e-3, 1e3)), max_size=30, unique_by=lambda pair: pair[0]
        ),
        "extra": st.fixed_dictionaries(
            {
                "protocol": st.sampled_from(["default", "deepobs-1.1.2"]),
                "configuration": st.fixed_dictionaries({"precision": st.sampled_from(["float32", "bf16", "tf32"])}),
                "data": st.fixed_dictionaries({"synthetic": st.booleans()}),
                "code": st.dictionaries(
                    st.sampled_from(["problem", "optimizer"]), st.text("0123456789abcdef", max_size=4)
                ),
            }
        ),
    }
)


def made(drawn: dict[str, Any]) -> RunRecord:
    schedule = sorted(drawn["schedule"])
    fields = {name: value for name, value in drawn.items() if name != "schedule"}
    epochs, factors = [epoch for epoch, _ in schedule] or None, [factor for _, factor in schedule] or None
    return make_record(**fields, lr_sched_epochs=epochs, lr_sched_factors=factors)


def to_ten_digits(value: Any) -> Any:
    """What DeepOBS's names tell apart: numbers to ten digits after the dot."""
    if isinstance(value, float):
        return f"{value:.10e}"
    if isinstance(value, list):
        return [to_ten_digits(item) for item in value]
    return repr(value)


def meaning(record: RunRecord) -> str:
    """What a name has to tell apart, written by other means."""
    factors = record.lr_sched_factors or []
    return repr(
        (
            record.num_epochs,
            record.batch_size,
            to_ten_digits(record.weight_decay),
            sorted((name, to_ten_digits(value)) for name, value in record.hyperparams.items()),
            to_ten_digits(record.learning_rate),
            [
                *zip(
                    record.lr_sched_epochs or [],
                    [f"{record.learning_rate * factor:.10e}" for factor in factors],
                    strict=True,
                )
            ],
            json.dumps(record.extra, sort_keys=True),
        )
    )


@settings(deadline=None, max_examples=25)
@given(one=RECORDS, other=RECORDS)
def test_two_settings_have_two_names(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = made(one), made(other)
    assert (setting_name(first) == setting_name(second)) == (meaning(first) == meaning(second))


@settings(deadline=None, max_examples=25)
@given(base=RECORDS, changes=RECORDS, field=st.sampled_from(["hyperparams", "weight_decay", "schedule", "extra"]))
def test_two_settings_that_differ_in_one_field_have_two_names(
    base: dict[str, Any], changes: dict[str, Any], field: str
) -> None:
    first, second = made(base), made(base | {field: changes[field]})
    assert (setting_name(first) == setting_name(second)) == (meaning(first) == meaning(second))


@settings(deadline=None, max_examples=25)
@given(values=st.tuples(VALUES, VALUES), keys=st.tuples(KEYS, KEYS))
def test_two_hyperparameters_never_read_as_others(values: tuple[Any, Any], keys: tuple[str, str]) -> None:
    assume(keys[0] != keys[1])
    one = make_record(hyperparams={keys[0]: values[0]})
    other = make_record(hyperparams={keys[1]: values[1]})
    both = make_record(hyperparams=dict(zip(keys, values, strict=True)))
    assert len({setting_name(record) for record in (one, other, both)}) == 3


@settings(deadline=None, max_examples=25)
@given(drawn=RECORDS, problem=st.text(max_size=300), optimizer=st.text(max_size=300))
def test_every_file_system_takes_the_names(drawn: dict[str, Any], problem: str, optimizer: str) -> None:
    record = made(drawn)
    record.testproblem, record.optimizer = problem, optimizer
    folder = folder_of(record, "results")
    assert len(folder.parts) == 4
    for part in folder.parts[1:]:
        assert 0 < len(os.fsencode(part)) <= 255
        assert not set(part) & set("/\\:*?\"<>| \n\t\0'")
        assert not part.startswith(".")
        assert not part.endswith(".")
    assert folder.parts[-1].isascii()


@settings(deadline=None, max_examples=25)
@given(one=st.text(max_size=300), other=st.text(max_size=300))
def test_problems_of_two_names_have_two_folders(one: str, other: str) -> None:
    folders = [folder_of(make_record(testproblem=name), "results") for name in (one, other)]
    assert (folders[0] == folders[1]) == (one == other)


@pytest.mark.parametrize("name", ["сеть", "网络", "übung", "my net", "a/b", "..", "", "x" * 300, "é" * 200])
def test_names_in_any_alphabet_make_folders(tmp_path: Path, name: str) -> None:
    path = records.write(make_record(testproblem=name), tmp_path / "results")
    assert path.parent.parent.parent.parent == tmp_path / "results"
    readable = [letter for letter in name if letter.isalnum()][:5]
    assert path.parent.parent.parent.name.startswith("".join(readable[:1]))
    assert records.read(path).testproblem == name


def test_a_long_name_is_readable_and_ends_in_a_hash() -> None:
    epochs = list(range(1, 31))
    record = make_record(
        learning_rate=0.1,
        hyperparams={"betas": [0.9, 0.999], "amsgrad": True, "foreach": None},
        lr_sched_epochs=epochs,
        lr_sched_factors=[round(0.9**epoch, 5) for epoch in epochs],
        extra={"protocol": "default"},
    )
    name = setting_name(record)
    assert name.startswith("num_epochs__1__batch_size__128__lr_schedule__0_1.e-01_1_9.e-02_")
    head, hash = name.rsplit("__~", 1)
    assert head.endswith("__protocol__default")
    assert len(hash) == 16
    assert 200 < len(name) <= 255
    record.lr_sched_factors = [*record.lr_sched_factors[:-1], 1e-9]
    assert setting_name(record) != name
    assert setting_name(record).rsplit("__~", 1)[0] == head


def test_flags_are_the_first_to_go() -> None:
    record = make_record(
        hyperparams={f"a_flag_of_a_long_name_{index}": None for index in range(8)} | {"momentum": 0.9, "rule": "max"}
    )
    name = setting_name(record)
    assert "__momentum__9.e-01__rule__max__lr__1.e-02__~" in name
    assert 3 <= name.count("a_flag") < 8


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ((0.9, 0.999), "(9.e-01,9.99e-01)"),
        ([0.9, 0.999], "(9.e-01,9.99e-01)"),
        ((0.9, (1, None)), "(9.e-01,(1,None))"),
        ((), "()"),
        ((0.5,), "(5.e-01)"),
        (0.5, "5.e-01"),
        (True, "True"),
        (3, "3"),
        ("max", "max"),
        ("a_b", "a_b"),
        (-math.inf, "-inf"),
    ],
)
def test_values(value: Any, name: str) -> None:
    assert setting_name(make_record(hyperparams={"rule": value})).split("rule__")[1] == f"{name}__lr__1.e-02"


@pytest.mark.parametrize("value", ["True", "3", "a__b", "_a", "a_", "9.e-01", "(1)", "a b", "ü", ""])
def test_texts_that_could_be_read_otherwise_have_a_hash(value: str) -> None:
    name = setting_name(make_record(hyperparams={"rule": value}))
    assert name.count("~") == 1
    assert name != setting_name(make_record(hyperparams={"rule": True}))


def test_values_of_other_kinds_depend_on_no_address_and_no_order() -> None:
    class Thing:
        pass

    def name(value: Any) -> str:
        return setting_name(make_record(hyperparams={"rule": value}))

    assert name(Thing()) == name(Thing())
    assert name({"a", "b", "c"}) == name({"c", "b", "a"})
    assert name({"a": 1, "b": 2}) == name({"b": 2, "a": 1}) != name({"a": 2, "b": 1})


def test_flags_that_are_off_by_default_are_not_named() -> None:
    hyperparams = {"nesterov": False, "amsgrad": False, "foreach": None}
    off = make_record(hyperparams=hyperparams, extra={"defaults": ["amsgrad", "foreach", "nesterov"]})
    assert "__foreach__None__lr" in setting_name(off)
    assert "nesterov" not in setting_name(off)
    given_off = make_record(hyperparams=hyperparams, extra={"defaults": ["amsgrad", "foreach"]})
    assert "nesterov__False" in setting_name(given_off)


def test_float2str_of_a_whole_number_that_is_not_finite() -> None:
    assert [float2str(value) for value in (math.inf, -math.inf, math.nan)] == ["inf", "-inf", "nan"]


def test_statistics_of_shards_have_folders_of_their_own() -> None:
    whole = make_record(extra={"protocol": "default"})
    names = [setting_name(make_record(extra={"protocol": "default", "statistics_of_shards": size})) for size in (2, 4)]
    assert [name.removeprefix(setting_name(whole)) for name in names] == ["__bn_sync__local_2", "__bn_sync__local_4"]
    assert "opt.bn_sync__1" in setting_name(make_record(hyperparams={"bn_sync": 1}))
