"""The published runs as results trees, read once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from deepobs_func.analysis import Results, load, published
from tests.analysis import deepobs_rules
from tests.analysis.trees import published_tree, trees

TARGETS = {problem: published.facts(problem).convergence_performance for problem in published.problems()}


class Tree(NamedTuple):
    """A results tree, read by us and by DeepOBS's rules."""

    path: Path
    results: Results
    by_rules: deepobs_rules.Tree


@pytest.fixture(scope="session")
def published_trees(tmp_path_factory: pytest.TempPathFactory) -> list[Tree]:
    """The sample, and the 1,080 published files where they lie beside the project."""
    sample = published_tree(tmp_path_factory.mktemp("published"))
    return [Tree(path, load(path), deepobs_rules.read(path, TARGETS)) for path in trees(sample)]


@pytest.fixture(scope="session")
def sample(published_trees: list[Tree]) -> Results:
    return published_trees[0].results
