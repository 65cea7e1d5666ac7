"""Records: DeepOBS's names, keys and numbers; written whole or not at all, and over nothing."""

import errno
import json
import math
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import records
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.records import RunRecord, float2str, setting_name

NOON = datetime(2026, 7, 31, 12, 0, 59)
DEEPOBS_KEYS = [
    *("train_losses", "test_losses", "minibatch_train_losses", "train_accuracies", "test_accuracies"),
    *("optimizer", "testproblem", "weight_decay", "batch_size", "num_epochs"),
    *("learning_rate", "lr_sched_epochs", "lr_sched_factors", "random_seed", "train_log_interval", "hyperparams"),
]
FINITE = st.floats(allow_nan=False, allow_infinity=False)


def make_record(**changes: Any) -> RunRecord:
    record = RunRecord(
        train_losses=[2.0, 1.0],
        test_losses=[2.5, 1.5],
        minibatch_train_losses=[1.9, 1.8],
        train_accuracies=[0.1, 0.5],
        test_accuracies=[0.1, 0.4],
        optimizer="momentum",
        testproblem="mnist_mlp",
        weight_decay=None,
        batch_size=128,
        num_epochs=1,
        learning_rate=0.01,
        lr_sched_epochs=None,
        lr_sched_factors=None,
        random_seed=42,
        train_log_interval=10,
        hyperparams={"momentum": 0.9},
        extra={"status": "finished"},
    )
    return replace(record, **changes)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Names


@pytest.mark.parametrize(
    ("value", "name"),
    [(0.01, "1.e-02"), (10**-0.4, "3.9810717055e-01"), (1.0, "1.e+00"), (0.0, "0.e+00"), (-2.5e-120, "-2.5e-120")],
)
def test_float2str_examples(value: float, name: str) -> None:
    assert float2str(value) == name


@settings(deadline=None)
@given(value=FINITE)
def test_float2str_follows_the_rule(value: float) -> None:
    text = float2str(value)
    mantissa, exponent = text.split("e")
    assert "." in mantissa
    assert not mantissa.endswith("0")
    whole, decimals = mantissa.split(".")
    assert f"{whole}.{decimals.ljust(10, '0')}e{exponent}" == f"{value:.10e}"
    read = float(text)  # the largest doubles round up to infinity
    assert math.isinf(read) or math.isclose(read, value, rel_tol=1e-10, abs_tol=1e-320)


@settings(deadline=None)
@given(value=FINITE)
def test_float2str_names_its_own_reading_alike(value: float) -> None:
    read = float(float2str(value))
    assert math.isinf(read) or float2str(read) == float2str(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_setting_of_a_class_with_a_hyperparameter_that_is_not_finite(value: float) -> None:
    assert f"bound__{value}" in setting_name(make_record(hyperparams={"bound": value}))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "num_epochs__1__batch_size__128__momentum__9.e-01__lr__1.e-02"),
        ({"hyperparams": {}}, "num_epochs__1__batch_size__128__lr__1.e-02"),
        (
            {"weight_decay": 5e-4, "hyperparams": {}},
            "num_epochs__1__batch_size__128__weight_decay__5.e-04__lr__1.e-02",
        ),
        ({"weight_decay": 0.0, "hyperparams": {}}, "num_epochs__1__batch_size__128__weight_decay__0.e+00__lr__1.e-02"),
        (
            {"hyperparams": {"use_nesterov": False, "momentum": 0.99}},
            "num_epochs__1__batch_size__128__momentum__9.9e-01__use_nesterov__False__lr__1.e-02",
        ),
        (
            {"hyperparams": {}, "learning_rate": 0.3, "lr_sched_epochs": [50, 100], "lr_sched_factors": [0.1, 0.01]},
            "num_epochs__1__batch_size__128__lr_schedule__0_3.e-01_50_3.e-02_100_3.e-03",
        ),
        (
            {"hyperparams": {}, "extra": {"data": {"synthetic": True}}},
            "num_epochs__1__batch_size__128__lr__1.e-02__data__synthetic",
        ),
        (
            {"hyperparams": {"steps": 3, "mode": None, "rule": "max"}},
            "num_epochs__1__batch_size__128__mode__None__rule__max__steps__3__lr__1.e-02",
        ),
    ],
)
def test_setting_name(changes: dict[str, Any], name: str) -> None:
    assert setting_name(make_record(**changes)) == name


@settings(deadline=None)
@given(value=st.text(max_size=30))
def test_a_setting_is_one_folder_whatever_characters_a_value_has(value: str) -> None:
    name = setting_name(make_record(hyperparams={"mode": f"a{value}b"}))
    assert Path(name).name == name
    assert not set(name) & set("/\\:*?\"<>| \n\t\0'")
    assert name.isascii()


def test_folder() -> None:
    folder = records.folder_of(make_record(hyperparams={}), "out")
    assert folder == Path("out/mnist_mlp/momentum/num_epochs__1__batch_size__128__lr__1.e-02")


@pytest.mark.parametrize(
    ("output_dir", "state"),
    [("results", "results.state"), ("a/b", "a/b.state"), ("/a/b/", "/a/b.state"), ("v1.2", "v1.2.state")],
)
def test_state_folder_lies_beside_the_results(output_dir: str, state: str) -> None:
    assert records.state_dir(output_dir) == Path(state).absolute()


@pytest.mark.parametrize("output_dir", [".", "..", "a/.."])
def test_state_folder_of_a_path_without_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_dir: str
) -> None:
    here = tmp_path / "outer" / "inner"
    (here / "a").mkdir(parents=True)
    monkeypatch.chdir(here)
    results = Path(output_dir).resolve()
    assert records.state_dir(output_dir).resolve() == results.with_name(results.name + ".state")


# Content


def test_keys_are_deepobss_in_its_order_and_one_more() -> None:
    assert list(make_record().to_json()) == [*DEEPOBS_KEYS, "deepobs_func"]
    assert list(make_record(extra={}).to_json()) == DEEPOBS_KEYS


def test_accuracy_keys_are_absent_where_there_is_none() -> None:
    content = make_record(train_accuracies=None, test_accuracies=None, extra={}).to_json()
    assert list(content) == [key for key in DEEPOBS_KEYS if not key.endswith("accuracies")]


@settings(deadline=None, max_examples=30)
@given(losses=st.lists(st.floats(), min_size=1, max_size=5), accuracies=st.none() | st.just([0.25, 0.5]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, losses: list[float], accuracies: list[float] | None
) -> None:
    record = make_record(train_losses=losses, train_accuracies=accuracies, test_accuracies=accuracies)
    path = records.write(record, tmp_path_factory.mktemp("out") / "results")
    read = records.read(path)
    assert list(map(repr, read.train_losses)) == list(map(repr, losses))
    assert replace(read, train_losses=losses, path=None) == record
    assert read.path == path


def test_numbers_that_are_not_finite_are_bare_words(tmp_path: Path) -> None:
    path = records.write(make_record(test_losses=[1.0, math.inf, -math.inf, math.nan]), tmp_path / "results")
    assert '"test_losses": [1.0, Infinity, -Infinity, NaN]' in path.read_text()


def test_reads_a_file_of_deepobs_itself(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    content = make_record(extra={}, optimizer="MomentumOptimizer").to_json()
    path.write_text(json.dumps(content))
    record = records.read(path)
    assert (record.status, record.synthetic, record.extra) == ("finished", False, {})
    assert record.to_json() == content


def test_reads_a_published_file_without_minibatch_losses_and_accuracies(tmp_path: Path) -> None:
    content = make_record(train_accuracies=None, test_accuracies=None, extra={}).to_json()
    del content["minibatch_train_losses"]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    record = records.read(path)
    assert (record.minibatch_train_losses, record.test_accuracies) == ([], None)


@pytest.mark.parametrize("key", [key for key in DEEPOBS_KEYS if "accuracies" not in key and "minibatch" not in key])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    content = make_record().to_json()
    del content[key]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"run\.json is no record of a run: it lacks {key}\."):
        records.read(path)


@pytest.mark.parametrize("content", [b"", b'{"train_losses": [1.0', b"\xff\xfe", b"5", b"null", b"[]", b'"text"'])
def test_a_file_that_is_no_record(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"run\.json is no"):
        records.read(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.json is no readable record: .*No such file"):
        records.read(tmp_path / "run.json")


# Writing


@pytest.mark.parametrize(
    ("status", "root", "suffix"),
    [
        ("finished", "results", "json"),
        ("diverged", "results", "json"),
        ("interrupted", "results.state", "json.partial"),
        ("failed", "results.state", "json.partial"),
        ("stopped", "results.state", "json.partial"),
    ],
)
def test_only_whole_runs_lie_in_the_results_tree(tmp_path: Path, status: str, root: str, suffix: str) -> None:
    """The others in the state folder, under the same relative path; no folder is made for them in the results tree."""
    record = make_record(extra={"status": status})
    path = records.write(record, tmp_path / "results", NOON)
    assert path == records.folder_of(record, tmp_path / root) / f"random_seed__42__2026-07-31-12-00-59.{suffix}"
    assert files_below(tmp_path) == [path]
    assert (tmp_path / "results").exists() == (root == "results")
    assert records.read(path).status == status


def test_two_writes_in_one_second_are_both_kept(tmp_path: Path) -> None:
    first = records.write(make_record(train_losses=[1.0]), tmp_path / "results", NOON)
    second = records.write(make_record(train_losses=[2.0]), tmp_path / "results", NOON)
    assert (first.name, second.name) == (
        "random_seed__42__2026-07-31-12-00-59.json",
        "random_seed__42__2026-07-31-12-01-00.json",
    )
    assert [records.read(path).train_losses for path in (first, second)] == [[1.0], [2.0]]


def test_many_threads_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(number: int) -> Path:
        return records.write(make_record(train_losses=[float(number)]), tmp_path / "results", NOON)

    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(write, range(40)))
    assert sorted(records.read(path).train_losses[0] for path in paths) == list(range(40))
    assert files_below(tmp_path) == sorted(paths)


PROCESS = """
import sys
from datetime import datetime
from pathlib import Path
from deepobs_func import records
template, output_dir, number = sys.argv[1:]
record = records.read(template)
for index in range(10):
    record.train_losses = [float(number), float(index)]
    records.check_writable(records.folder_of(record, output_dir), output_dir)
    records.write(record, output_dir, datetime(2026, 7, 31, 12, 0, 59))
"""


def test_many_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each checks the folder, as a run does before it starts, and writes into it, on a tree that is not there yet."""
    template = tmp_path / "template"
    template.write_text(json.dumps(make_record().to_json()))
    command = [sys.executable, "-c", PROCESS, str(template), str(tmp_path / "results")]
    processes = [subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(4)]
    errors = [process.communicate()[1] for process in processes]
    assert errors == [""] * 4
    found = sorted(records.read(path).train_losses for path in files_below(tmp_path / "results"))
    assert found == [[float(n), float(i)] for n in range(4) for i in range(10)]


def test_the_umask_is_never_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to the whole process: while one thread has set it, another's files get the wrong permissions."""

    def refuse(mask: int) -> int:
        raise AssertionError(f"os.umask({mask:#o})")

    monkeypatch.setattr(os, "umask", refuse)
    records.write(make_record(), tmp_path / "results")


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = records.write(make_record(), tmp_path / "results")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("code", ["EPERM", "EOPNOTSUPP", "EXDEV"])
def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """EXDEV: the results tree is a mount point or a link to another disk, and the state folder beside it is not."""

    def no_link(source: str, target: Path) -> None:
        raise OSError(getattr(errno, code), "no hard links")

    monkeypatch.setattr(os, "link", no_link)
    paths = [records.write(make_record(train_losses=[float(n)]), tmp_path / "results", NOON) for n in range(3)]
    assert [records.read(path).train_losses for path in paths] == [[0.0], [1.0], [2.0]]
    assert files_below(tmp_path) == sorted(paths)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        records.write(make_record(), tmp_path / "results")
    assert files_below(tmp_path) == []
    assert not (tmp_path / "results").exists()


# Whether a folder can be written


def test_check_writable_leaves_no_file_behind(tmp_path: Path) -> None:
    output_dir = tmp_path / "results"
    records.check_writable(records.folder_of(make_record(), output_dir), output_dir)
    assert list(tmp_path.rglob("*")) == []


def test_check_writable_keeps_what_is_there(tmp_path: Path) -> None:
    output_dir = tmp_path / "results"
    path = records.write(make_record(), output_dir)
    before = sorted(tmp_path.rglob("*"))
    records.check_writable(path.parent, output_dir)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("taken", ["results", "results/mnist_mlp"])
def test_check_writable_with_a_file_in_the_place_of_a_folder(tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    output_dir = tmp_path / "results"
    with pytest.raises(ConfigError, match=r"results cannot be written .*output_dir"):
        records.check_writable(records.folder_of(make_record(), output_dir), output_dir)
    assert (tmp_path / taken).read_text() == "mine"
    assert sorted(tmp_path.rglob("*")) == before


# The run's id, and the imports

PLAIN = st.none() | st.booleans() | st.integers() | FINITE | st.text()


@settings(deadline=None)
@given(items=st.lists(st.tuples(st.text(), PLAIN), unique_by=lambda item: item[0]), data=st.data())
def test_run_id_is_stable_under_the_order_of_keys(items: list[tuple[str, Any]], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(items))
    assert records.run_id(dict(items)) == records.run_id(dict(shuffled))
    assert records.run_id({"inner": dict(items)}) == records.run_id({"inner": dict(shuffled)})


def test_run_id_tells_configurations_apart_and_is_sha256_of_canonical_json() -> None:
    assert records.run_id({"lr": 0.1}) != records.run_id({"lr": 0.2})
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of "{}", as sha256sum prints it
    assert records.run_id({}) == empty


def test_imports_no_torch() -> None:
    code = "import sys, deepobs_func.records; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
