"""Kinds of files, told apart by their keys and paths."""

from __future__ import annotations

import pytest

from deepobs_func.analysis.dialects import DIALECTS, as_record, dialect_of
from deepobs_func.errors import DataError
from tests.analysis.trees import of_1_2, record

PATHS = {
    "ours": "results/mnist_mlp/sgd/num_epochs__2__lr__1.e-01/random_seed__42__x.json",
    "crowded-valley": "results/oneshot/none/mnist_mlp/sgd/num_epochs__2__lr__1.e-01/random_seed__42__x.json",
    "deepobs-1.2": "results/mnist_mlp/sgd/num_epochs__2__lr__1.e-01/random_seed__42__x.json",
    "port": "results/mnist_mlp/sgd/num_epochs__2__momentum__9e-01__lr__1.5e-01/random_seed__42__x.json",
    "deepobs-1.1.2": "results/mnist_mlp/sgd/num_epochs__2__momentum__9.e-01__lr__1.5e-01/random_seed__42__x.json",
}


@pytest.mark.parametrize("name", PATHS)
def test_each_is_known(name: str) -> None:
    content = of_1_2(record()) if name in ("crowded-valley", "deepobs-1.2") else record(status=None).to_json()
    content |= {"deepobs_func": {"status": "finished"}} if name == "ours" else {}
    dialect, about = dialect_of(content, PATHS[name])
    assert dialect.name == name
    assert about == ({"budget": "oneshot", "schedule": "none"} if name == "crowded-valley" else {})


def test_names_are_distinct() -> None:
    assert len({dialect.name for dialect in DIALECTS}) == len(DIALECTS) == len(PATHS)


@pytest.mark.parametrize("lr", [0.1, 3, None])
def test_the_learning_rate_is_taken_out_of_the_hyperparameters(lr: float | None) -> None:
    content = of_1_2(record(hyperparams={"momentum": 0.9}))
    content["optimizer_hyperparams"]["lr"] = lr
    found = as_record(content, DIALECTS[2])
    assert found.hyperparams == {"momentum": 0.9}
    assert found.learning_rate == lr or lr is None


@pytest.mark.parametrize("missing", ["batch_size", "num_epochs", "random_seed"])
def test_what_a_run_needs(missing: str) -> None:
    content = record(status=None).to_json()
    del content[missing]
    with pytest.raises(DataError, match=f"it lacks {missing}"):
        as_record(content, DIALECTS[-1])
