import pytest

from deepobs_func.errors import ConfigError, DataError, UserError, unknown

KNOWN = ["cifar10_3c3d", "mnist_mlp"]


@pytest.mark.parametrize("name", ["cifar_3c3d", "cifar10_3c3", "Cifar10_3c3d"])
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
