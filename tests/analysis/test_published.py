"""The packaged baselines against the table of the published runs, typed out here."""

import math

import pytest

from deepobs_func import optimizers, problems
from deepobs_func.analysis import published

# problem: epochs, batch size, initial test loss
RUNS = {
    "quadratic_deep": (100, 128, "353.4468"),
    "mnist_vae": (50, 64, "181.4499"),
    "fmnist_2c2d": (100, 128, "2.3545"),
    "cifar10_3c3d": (100, 128, "3.5921"),
    "fmnist_vae": (100, 64, "132.9942"),
    "cifar100_allcnnc": (350, 256, "4.9274"),
    "svhn_wrn164": (160, 128, "2.7900"),
    "tolstoi_char_rnn": (200, 50, "4.4271"),
}

# learning rate, final mean, final standard deviation, speed
FIGURES = {
    ("quadratic_deep", "sgd"): ("1.58e-2", "87.3975", ".169", "51.1"),
    ("quadratic_deep", "momentum"): ("2.51e-3", "87.0450", ".025", "70.5"),
    ("quadratic_deep", "adam"): ("3.98e-2", "87.1119", ".024", "39.9"),
    ("mnist_vae", "sgd"): ("3.98e-3", "38.46", "12.5", "1"),
    ("mnist_vae", "momentum"): ("2.51e-5", "52.93", ".012", "1"),
    ("mnist_vae", "adam"): ("1.58e-4", "27.83", ".095", "1"),
    ("fmnist_2c2d", "sgd"): ("1.58e-1", ".9227", ".0018", "40.6"),
    ("fmnist_2c2d", "momentum"): ("2.51e-3", ".9214", ".0021", "59.1"),
    ("fmnist_2c2d", "adam"): ("2.51e-4", ".9234", ".0029", "40.1"),
    ("cifar10_3c3d", "sgd"): ("6.31e-2", ".8371", ".0121", "42.5"),
    ("cifar10_3c3d", "momentum"): ("3.98e-4", ".8441", ".0064", "40.7"),
    ("cifar10_3c3d", "adam"): ("3.98e-4", ".8475", ".0035", "36.0"),
    ("fmnist_vae", "sgd"): ("3.98e-3", "23.80", ".246", "1"),
    ("fmnist_vae", "momentum"): ("1e-5", "59.23", "18.4", "1"),
    ("fmnist_vae", "adam"): ("1.58e-4", "23.07", ".093", "1"),
    ("cifar100_allcnnc", "sgd"): ("1.58e-1", ".5706", ".0164", "128.7"),
    ("cifar100_allcnnc", "momentum"): ("3.98e-3", ".6033", ".0081", "72.8"),
    ("cifar100_allcnnc", "adam"): ("1e-3", ".5615", ".0095", "152.6"),
    ("svhn_wrn164", "sgd"): ("2.51e-2", ".9537", ".0040", "28.3"),
    ("svhn_wrn164", "momentum"): ("6.31e-4", ".9553", ".0016", "10.8"),
    ("svhn_wrn164", "adam"): ("1.58e-4", ".9525", ".0023", "12.1"),
    ("tolstoi_char_rnn", "sgd"): ("1.58e0", ".6207", ".0029", "47.7"),
    ("tolstoi_char_rnn", "momentum"): ("3.98e-2", ".6130", ".0013", "88.0"),
    ("tolstoi_char_rnn", "adam"): ("2.51e-3", ".6123", ".0031", "62.8"),
}


def baseline(problem: str, optimizer: str) -> published.Baseline:
    return next(found for found in published.baselines(problem) if found.optimizer == optimizer)


def assert_rounds_to(value: float, typed: str) -> None:
    mantissa, _, exponent = typed.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    assert abs(value - float(typed)) <= 0.5001 * unit, f"{value} does not round to {typed}"


def test_eight_problems_and_three_optimizers_each() -> None:
    assert set(published.problems()) == set(RUNS)
    for problem in published.problems():
        assert [found.optimizer for found in published.baselines(problem)] == ["sgd", "momentum", "adam"]


@pytest.mark.parametrize(("problem", "optimizer"), list(FIGURES))
def test_figures_of_the_table(problem: str, optimizer: str) -> None:
    found = baseline(problem, optimizer)
    values = (found.lr, found.final_mean, found.final_sd, found.speed)
    for value, typed in zip(values, FIGURES[problem, optimizer], strict=True):
        assert_rounds_to(value, typed)
    assert found.seeds == 10
    assert found.problem == problem


@pytest.mark.parametrize(("problem", "optimizer"), list(FIGURES))
def test_learning_rates_are_those_of_the_published_grid(problem: str, optimizer: str) -> None:
    exponent = (math.log10(baseline(problem, optimizer).lr) + 5) / 0.2
    assert exponent == pytest.approx(round(exponent), abs=1e-9)
    assert 0 <= round(exponent) < 36


@pytest.mark.parametrize("problem", list(RUNS))
def test_settings_of_the_table(problem: str) -> None:
    epochs, batch_size, initial = RUNS[problem]
    assert_rounds_to(published.initial_test_loss(problem), initial)
    loss = problem == "quadratic_deep" or problem.endswith("_vae")
    for found in published.baselines(problem):
        assert (found.epochs, found.batch_size) == (epochs, batch_size)
        assert found.metric == ("test_losses" if loss else "test_accuracies")


@pytest.mark.parametrize(("problem", "optimizer"), list(FIGURES))
def test_curves(problem: str, optimizer: str) -> None:
    found = baseline(problem, optimizer)
    assert len(found.curve_mean) == len(found.curve_sd) == found.epochs + 1
    assert found.curve_mean[-1] == pytest.approx(found.final_mean, rel=1e-4)
    assert found.curve_sd[-1] == pytest.approx(found.final_sd, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("problem", [name for name in RUNS if name in ("quadratic_deep", "mnist_vae", "fmnist_vae")])
def test_loss_curves_start_near_the_initial_test_loss(problem: str) -> None:
    for found in published.baselines(problem):
        assert found.curve_mean[0] == pytest.approx(published.initial_test_loss(problem), rel=0.01)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_hyperparameters_are_ours_by_name(optimizer: str) -> None:
    expected = {"sgd": {}, "momentum": {"momentum": 0.99}, "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}}
    for problem in published.problems():
        assert baseline(problem, optimizer).hyperparams == expected[optimizer]
    assert set(expected[optimizer]) == set(optimizers.FUNCTIONAL[optimizer].defaults)


def test_our_defaults_are_the_published_ones() -> None:
    for problem in set(published.problems()) & set(problems.names()):
        row = problems.spec_of(problem)
        assert (row.epochs, row.batch_size) == RUNS[problem][:2]
        assert not row.defaults_chosen_here


def test_nothing_is_published_for_the_rest() -> None:
    assert published.baselines("mnist_mlp") == []
