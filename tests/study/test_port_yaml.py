"""The YAML of the PyTorch port: the same runs, and nothing passed over in silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deepobs_func.errors import ConfigError, as_flag
from deepobs_func.runner.config import RunConfig
from deepobs_func.study import Study
from deepobs_func.study.yaml_spec import read

GLOBAL = """\
global:
  output_dir: "./there"
  random_seed: 7
  num_epochs: 10
  batch_size: 64
  train_log_interval: 50
  print_train_iter: false
  data_dir: {data}
"""
PROBLEMS = """\
test_problems:
  - name: mnist_logreg
    num_epochs: 40
    batch_size: 32
  - name: quadratic_deep
"""
OPTIMIZERS = """\
optimizers:
  - name: SGD
    learning_rate: 0.01
    momentum: 0.9
    nesterov: false
  - name: SGD_Nesterov
    optimizer_class: SGD
    learning_rate: 0.02
    momentum: 0.9
    nesterov: true
    lr_schedule:
      epochs: [5, 8]
      factors: [0.1, 0.01]
  - name: adam
    learning_rate: 1e-3
    beta1: 0.8
  - name: mine
    optimizer_class: tests.study.user_code.OwnSGD
    learning_rate: 3
  - name: Adam
    learning_rate: 0.001
    betas: [0.9, 0.99]
    eps: 1.0e-08
"""
OVERRIDES = """\
overrides:
  mnist_logreg:
    SGD:
      learning_rate: 0.1
      lr_schedule: {epochs: [30], factors: [0.1]}
    Adam:
      betas: [0.8, 0.9]
  fmnist_logreg:
    SGD:
      learning_rate: 0.2
"""
ADVANCED = """\
advanced:
  parallel: false
  continue_existing: false
  verbose: true
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named as a user in their folder names them."""
    monkeypatch.chdir(tmp_path)


def study(text: str) -> Study:
    Path("port.yaml").write_text(text, encoding="utf-8")
    return read("port.yaml")


def port_of(run: RunConfig) -> tuple[Any, ...]:
    schedule = None if run.lr_sched_epochs is None else (run.lr_sched_epochs, run.lr_sched_factors)
    return run.problem, run.optimizer, run.lr, run.hyperparams, run.epochs, run.batch_size, schedule


def test_a_file_of_the_port_is_its_runs() -> None:
    made = study(GLOBAL.format(data="here") + PROBLEMS + OPTIMIZERS + OVERRIDES + ADVANCED)
    sgd, nesterov = {"momentum": 0.9, "nesterov": False}, {"momentum": 0.9, "nesterov": True}
    own, steps = "tests.study.user_code.OwnSGD", ((5, 8), (0.1, 0.01))
    adam = {"betas": (0.9, 0.99), "eps": 1e-8}
    assert [port_of(run) for run in made.runs] == [
        ("mnist_logreg", "torch.optim.SGD", 0.1, sgd, 40, 32, ((30,), (0.1,))),
        ("mnist_logreg", "torch.optim.SGD", 0.02, nesterov, 40, 32, steps),
        ("mnist_logreg", "adam", 1e-3, {"beta1": 0.8}, 40, 32, None),
        ("mnist_logreg", own, 3, {}, 40, 32, None),
        ("mnist_logreg", "torch.optim.Adam", 1e-3, adam | {"betas": (0.8, 0.9)}, 40, 32, None),
        ("quadratic_deep", "torch.optim.SGD", 0.01, sgd, 10, 64, None),
        ("quadratic_deep", "torch.optim.SGD", 0.02, nesterov, 10, 64, steps),
        ("quadratic_deep", "adam", 1e-3, {"beta1": 0.8}, 10, 64, None),
        ("quadratic_deep", own, 3, {}, 10, 64, None),
        ("quadratic_deep", "torch.optim.Adam", 1e-3, adam, 10, 64, None),
    ]
    for run in made.runs:
        assert (run.seed, run.train_log_interval, run.data, run.output_dir) == (7, 50, "here", "./there")
    assert (made.jobs, made.seeds) == (1, (7,))


def test_what_has_no_part_in_the_study_is_in_its_notes() -> None:
    made = study(GLOBAL.format(data="null") + PROBLEMS + OPTIMIZERS + OVERRIDES + ADVANCED)
    assert made.notes == (
        "overrides.fmnist_logreg (line 44) is not used: fmnist_logreg is not among test_problems.",
        "advanced.continue_existing: false has no effect, as in the port: finished runs are not run again. Another "
        "output_dir starts anew.",
    )
    assert study(PROBLEMS + OPTIMIZERS).notes == ()
    assert study(PROBLEMS + OPTIMIZERS + "advanced: {continue_existing: true, verbose: false}\n").notes == (
        "advanced.verbose: false has no effect, as in the port; --quiet shows less.",
    )


def test_what_a_file_does_not_say_is_as_the_port_has_it() -> None:
    made = study("test_problems: [{name: quadratic_deep}]\noptimizers: [{name: Adam, learning_rate: 0.1}]\n")
    (run,) = made.runs
    assert (run.epochs, run.batch_size, run.train_log_interval, run.seed, run.output_dir) == (
        10,
        128,
        100,
        42,
        "./results",
    )
    assert run.data == RunConfig("quadratic_deep", "sgd", 0.1).data
    assert (made.jobs, made.overrides) == (None, {})
    assert study("test_problems: [{name: quadratic_deep}]\nglobal:\noverrides:\nadvanced:\n" + OPTIMIZERS).size == 5


@pytest.mark.parametrize(
    "name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "ASGD", "NAdam", "RAdam"]
)
def test_short_names_are_classes_of_torch_optim(name: str) -> None:
    made = study(f"test_problems: [{{name: quadratic_deep}}]\noptimizers: [{{name: {name}, learning_rate: 0.1}}]\n")
    assert [run.optimizer for run in made.runs] == [f"torch.optim.{name}"]
    assert issubclass(getattr(torch.optim, name), torch.optim.Optimizer)


def test_no_schedule_in_an_override_is_a_constant_rate() -> None:
    override = "overrides: {quadratic_deep: {SGD_Nesterov: {lr_schedule: null}}}\n"
    runs = [run for run in study(PROBLEMS + OPTIMIZERS + override).runs if run.lr == 0.02]
    assert [run.lr_sched_epochs for run in runs] == [(5, 8), None]


ONE = "test_problems:\n- name: quadratic_deep\n"
SGD = "optimizers:\n- name: SGD\n  learning_rate: 0.1\n"
WRONG = [
    (ONE, "optimizers: It must be a list, with one item at least that has a name."),
    ("global: {}\n" + SGD, "test_problems: It must be a list, with one item at least that has a name."),
    ("test_problems: []\n" + SGD, "line 1: test_problems: It must be a list, with one item at least that has a name."),
    ("test_problems: [mnist_mlp]\n" + SGD, "line 1: test_problems[0]: 'mnist_mlp': it must be a mapping with a name."),
    (ONE + SGD + "seeds: 3\n", "line 6: seeds: Unknown key of a study of the PyTorch port 'seeds'. Known: global,"),
    (
        ONE + SGD + "override:\n",
        "line 6: override: Unknown key of a study of the PyTorch port 'override'. Did you mean",
    ),
    (
        ONE + SGD + "global:\n  epochs: 3\n",
        "line 7: global.epochs: Unknown key of global 'epochs'. Did you mean 'num_epochs'?",
    ),
    (ONE + SGD + "global: [3]\n", "line 6: global: [3]: it must be a mapping."),
    (
        ONE + SGD + "global:\n  print_train_iter: true\n",
        "line 7: global.print_train_iter: true: no loss is printed as it goes. Remove the key;",
    ),
    (ONE + SGD + "global:\n  num_epochs: on\n", "line 7: global.num_epochs: 'on': it must be a whole number."),
    (
        ONE + SGD + "global:\n  random_seed: 1.5\n",
        "line 7: global.random_seed: 1.5: a seed is a whole number from 0 to",
    ),
    (ONE + "  batch_size: 0\n" + SGD, "line 3: test_problems[0].batch_size: 0: it must be a whole number from 1."),
    (
        ONE + "  epochs: 0\n" + SGD,
        "line 3: test_problems[0].epochs: Unknown key of test_problems[0] 'epochs'. Did you mean",
    ),
    (ONE + "- name: quadratic_deep\n" + SGD, "line 3: test_problems[1].name: quadratic_deep is there already"),
    (
        ONE + "- name: mnist_mpl\n" + SGD,
        "line 3: test_problems[1].name: Unknown problem 'mnist_mpl'. Did you mean 'mnist_mlp'?",
    ),
    (
        ONE + "- name: ptb_lstm\n" + SGD,
        "line 3: test_problems[1].name: ptb_lstm is a problem of the port that DeepOBS 1.1.2 does not have, and "
        "nor does this package; remove it.",
    ),
    (ONE + "- num_epochs: 3\n" + SGD, "line 3: test_problems[1]: null: it must have a name, a text."),
    (ONE + "optimizers:\n- name: SGD\n", "line 4: optimizers[0]: SGD has no learning_rate; add the key."),
    (
        ONE + "optimizers:\n- name: SGD\n  learning_rate: [0.1]\n",
        "line 5: optimizers[0].learning_rate: [0.1]: it must be a number.",
    ),
    (
        ONE + "optimizers:\n- name: SGD\n  learning_rate: -0.1\n",
        "line 5: optimizers[0].learning_rate: -0.1: a learning rate must be positive and finite.",
    ),
    (ONE + SGD + "- name: SGD\n  learning_rate: 1\n", "line 6: optimizers[1].name: SGD is there already; give each"),
    (ONE + SGD + "  optimizer_class: 3\n", "line 6: optimizers[0].optimizer_class: 3: it must be an import path."),
    (
        ONE + SGD + "  momentun: 0.9\n",
        "line 4: optimizers[0]: Unknown hyperparameter of torch.optim.SGD: 'momentun'. Did you",
    ),
    (
        ONE + SGD.replace("SGD", "adam") + "  eps: 0.9\n",
        "line 6: optimizers[0].eps: Unknown hyperparameter of adam: 'eps'.",
    ),
    (ONE + SGD.replace("SGD", "Sdg"), "line 4: optimizers[0]: Unknown name in torch.optim: 'Sdg'. Did you mean 'SGD'?"),
    (
        ONE + SGD + "  lr_schedule: {epochs: [1]}\n",
        "line 6: optimizers[0].lr_schedule: It needs epochs and factors, a list of each; factors is null.",
    ),
    (
        ONE + SGD + "  lr_schedule: {epochs: [1, 2], factors: [1]}\n",
        "line 6: optimizers[0].lr_schedule: lr_sched_epochs has 2 values and lr_sched_factors 1: give as many of each.",
    ),
    (
        ONE + SGD + "  lr_schedule: {epochs: [30], factors: [0.1]}\n",
        "line 6: optimizers[0].lr_schedule: lr_sched_epochs 30: a run of epochs 10 ends before the learning rate",
    ),
    (
        ONE + SGD + "overrides:\n  quadratic_deep:\n    sgd: {learning_rate: 1}\n",
        "line 8: overrides.quadratic_deep.sgd: Unknown optimizer of this file 'sgd'. Did you mean 'SGD'?",
    ),
    (
        ONE + SGD + "overrides:\n  mnist_mpl: {}\n",
        "line 7: overrides.mnist_mpl: Unknown problem 'mnist_mpl'. Did you mean",
    ),
    (
        ONE + SGD + "overrides:\n  quadratic_deep:\n    SGD:\n      learning_rate: no\n",
        "line 9: overrides.quadratic_deep.SGD.learning_rate: 'no': it must be a number.",
    ),
    (
        ONE + SGD + "overrides:\n  quadratic_deep:\n    SGD: {optimizer_class: Adam}\n",
        "line 8: overrides.quadratic_deep.SGD.optimizer_class: An optimizer has one class on all problems; leave it",
    ),
    (
        ONE + SGD + "advanced:\n  parallel: true\n",
        "line 7: advanced.parallel: true: it does not say how many runs go on at once. Remove the key, and",
    ),
    (ONE + SGD + "advanced:\n  parallel: 4\n", "line 7: advanced.parallel: 4: it must be true or false."),
    (
        ONE + SGD + "advanced:\n  save_checkpoints: true\n",
        "line 7: advanced.save_checkpoints: Unknown key of advanced 'save_",
    ),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=lambda value: repr(value)[-30:])
def test_what_cannot_be_honoured_is_refused_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = study(text).runs
    message = str(caught.value)
    assert message == caught.value.told(as_flag)
    assert words in message
    assert message.startswith("port.yaml, line ")
    assert len(message) < 300
