"""For the tests and for the doctests of the package: nothing reads or writes what is the user's."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

LARGE_DOCTESTS = (
    "deepobs_func.runner.runtime.estimate_runtime",
    "deepobs_func.study.pool.Pool",
    "deepobs_func.study.sweeping.sweep",
)


@pytest.fixture(autouse=True, scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the runs of doctests measure is kept apart from the user's; each test has a cache of its own beside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEEPOBS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an example writes lies in a folder of its own."""
    if isinstance(request.node, pytest.DoctestItem):
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two marks: of large tests of the largest nets, which need up to 15 GB, so two at once do not fit; of doctests.

    Those of doctests that start worker processes, each of which imports torch, or measure times are large.
    """
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name in LARGE_DOCTESTS:
            item.add_marker(pytest.mark.large)
        if item.get_closest_marker("large") and ("imagenet" in item.nodeid or "vgg" in item.nodeid):
            item.add_marker(pytest.mark.largest)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported stays: the collector looks at what tests make alone, not at some million objects each time.

    And it looks seldom: of the time of traced code that is 3 %. The large tests need the memory.
    """
    gc.collect()
    gc.freeze()
    if not any(item.get_closest_marker("large") for item in session.items):
        gc.set_threshold(10_000, 20, 20)
