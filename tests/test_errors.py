import pickle

import pytest

from deepobs_func.errors import ConfigError, DataError, UserError, as_flag, option, unknown

KNOWN = ["cifar10_3c3d", "mnist_mlp"]


@pytest.mark.parametrize("name", ["cifar_3c3d", "cifar10_3c3", "Cifar10_3c3d", "CIFAR10_3C3D", "CIFAR_3C3D"])
def test_a_near_name_is_proposed(name):
    assert unknown("problem", name, KNOWN) == f"Unknown problem {name!r}. Did you mean 'cifar10_3c3d'?"


def test_where_none_is_near_all_are_listed():
    assert unknown("problem", "xyz", KNOWN) == "Unknown problem 'xyz'. Known: cifar10_3c3d, mnist_mlp."


def test_where_none_is_near_the_listing_is_named():
    message = unknown("problem", "xyz", KNOWN, listing="deepobs list")
    assert message == "Unknown problem 'xyz'. `deepobs list` shows those that there are."


def test_a_near_name_is_better_than_a_listing():
    assert "Did you mean 'mnist_mlp'?" in unknown("problem", "mnist_mpl", KNOWN, listing="deepobs list")


def test_nothing_known_is_said():
    assert unknown("figure", "loss", []) == "Unknown figure 'loss'. Known: none."


def test_the_known_names_may_be_any_iterable():
    assert unknown("problem", "xyz", iter(KNOWN)).endswith("Known: cifar10_3c3d, mnist_mlp.")


@pytest.mark.parametrize("error", [ConfigError, DataError])
def test_a_mistake_of_the_user_is_a_value_error(error):
    assert issubclass(error, UserError)
    assert issubclass(error, ValueError)


def test_an_option_has_pythons_name_and_the_command_lines():
    error = ConfigError(f"{option('lr_sched_epochs')} and {option('hyperparams.momentum')}: no {option('lr')}.")
    assert str(error) == "lr_sched_epochs and hyperparams['momentum']: no lr."
    assert error.told(as_flag) == "--lr-sched-epochs and --opt.momentum: no --lr."
    assert error.field == "lr_sched_epochs"
    assert (UserError("plain").field, UserError("plain").told(as_flag)) == (None, "plain")


def test_an_error_comes_whole_out_of_another_process():
    error = pickle.loads(pickle.dumps(ConfigError(f"{option('lr')} -1")))
    assert (type(error), str(error), error.field, error.told(as_flag)) == (ConfigError, "lr -1", "lr", "--lr -1")
