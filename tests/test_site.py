"""What the documentation site makes from the package."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import make_curves
from deepobs_func import RunConfig, problems
from deepobs_func.analysis import published
from deepobs_func.runner.execution import Execution

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

from extension import api, catalogue, docstrings, pictures, plain  # noqa: E402


def test_every_room_of_the_face_has_a_page_with_all_its_names() -> None:
    import deepobs_func

    rooms = {name for name in deepobs_func.__all__ if hasattr(getattr(deepobs_func, name), "__path__")}
    assert rooms <= set(api.ROOMS)
    for room in rooms:
        module, text = api.module_of(room), api.page(room)
        assert all(f":: {module.__name__}.{name}\n" in text for name in api.public(module))
        assert api.public(module)
    assert "## hvp\n" in api.as_markdown("probes")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("`a` times |x|", r"``a`` times \|x\|"),
        ("a `vmap`ped *step_", r"a ``vmap``\ ped \*step\_"),
        ("* an item with `x|y`", "* an item with ``x|y``"),
        (">>> f(a * b)", ">>> f(a * b)"),
    ],
)
def test_a_docstring_becomes_markup(line: str, expected: str) -> None:
    assert docstrings.converted([line]) == [expected]


def test_an_indented_block_of_a_docstring_is_code_and_an_argument_is_not() -> None:
    assert docstrings.converted(["Text.", "", "    a * b"]) == ["Text.", "", "::", "", "    a * b"]
    assert docstrings.converted(["Args:", "    a: x * y."]) == ["Args:", r"    a: x \* y."]


def test_every_problem_has_its_parameters_deviations_and_results() -> None:
    for name in ("mnist_mlp", "quadratic_deep", "tolstoi_char_rnn"):
        spec = problems.spec_of(name)
        rows = catalogue.parameters(spec).splitlines()[2:]
        counts = [int(row.split("|")[3].replace(",", "")) for row in rows]
        assert sum(counts) == spec.parameters
        assert all(each.quirk in catalogue.deviations(spec) for each in spec.deviations)
    assert "87.4 ± 0.17" in catalogue.results(problems.spec_of("quadratic_deep"))
    assert catalogue.results(problems.spec_of("mnist_mlp")) == "None."
    assert all(f"({name}.md)" in catalogue.index([problems.spec_of(name)]) for name in problems.names())


@pytest.mark.parametrize("name", problems.names())
def test_only_deepobs_s_problems_have_deviations(name: str) -> None:
    heading, text = catalogue.differences(problems.spec_of(name))
    is_theirs = name in problems.SETS["deepobs"]
    assert ("Deviations from DeepOBS" in heading) == is_theirs
    if not is_theirs:
        data = problems.get(name).dataset
        assert "`--protocol deepobs-1.1.2`" in text
        assert "does not end a run" in text
        assert ("head of the training stream" in text) == data.shuffle
        assert ("one fixed order a seed" in text) == (data.shuffle and not data.file_sizes)


def test_recorded_runs_are_made_where_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []

    def refuse(config: RunConfig, **how: Any) -> None:
        seen.append(config)
        assert how == {"execution": Execution()}  # eager
        raise InterruptedError

    monkeypatch.setattr(make_curves, "run", refuse)
    with pytest.raises(InterruptedError):
        make_curves.recorded("mnist_logreg", "nowhere")
    assert [config.device for config in seen] == ["cpu"]


def test_a_problem_of_which_nothing_is_published_shows_a_recorded_run(tmp_path: Path) -> None:
    """Of those that are recorded; the page says how it was made."""
    recorded = pictures.recorded()
    assert set(recorded) == set(make_curves.PROBLEMS)
    for name, run in recorded.items():
        assert published.facts(name) is None
        assert len(run["test_losses"]) == len(run["test_accuracies"]) == run["epochs"] + 1
        assert run["test_losses"][-1] < run["test_losses"][0]
    text = catalogue.curve(problems.spec_of("mnist_mlp"), tmp_path)
    assert "(mnist_mlp_recorded.svg)" in text
    assert "adam, learning rate 0.001, batch size 128, 5 epochs, seed 42" in text
    assert f"{recorded['mnist_mlp']['test_accuracies'][-1]:.2%}" in text
    assert "no run on its real data" in catalogue.curve(problems.spec_of("svhn_3c3d"), tmp_path)


def test_a_page_is_made_of_pictures_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "FOLDER", tmp_path / "nowhere")
    text = catalogue.page(problems.spec_of("quadratic_deep"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"batch_quadratic.png", "quadratic_deep_published.svg"}
    assert all(f"({path.name})" in text for path in tmp_path.iterdir())


def test_plain_markdown_has_no_directives(tmp_path: Path) -> None:
    assert ":::" not in plain.page(DOCS / "index.md", "index")
    cells = [{"cell_type": "markdown", "source": ["# A"]}, {"cell_type": "code", "source": ["x = 1\n"]}]
    assert plain.from_notebook({"cells": cells}) == "# A\n\n```python\nx = 1\n```\n"
    listed = plain.listing({"start": "# Start here\n", "api/probes": "# deepobs_func.probes\n"})
    assert "- [Start here](start.md)" in listed
    assert "## API\n\n- [deepobs_func.probes](api/probes.md)" in listed
