"""Styles are told apart and stay; files of every format are written, whatever a name holds."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb

from deepobs_func import optimizers
from deepobs_func.analysis import figures
from deepobs_func.analysis.figures import style
from deepobs_func.errors import ConfigError

KNOWN = optimizers.names()
STARTS = {".png": b"\x89PNG", ".pdf": b"%PDF", ".pgf": b"%% Creator: Matplotlib, PGF backend", ".svg": b"<?xml"}
ODD = ("a_b%c&d#e{f}", "50$ and 60$", r"\input{x}", "~^", "优化器", "мой", "a\nb", "<b>")


@given(
    st.lists(st.sampled_from([*KNOWN, "Adam", "my.Adam", "AdamOptimizer", "adam (published)", "a", "b"]), unique=True)
)
def test_a_functional_optimizer_keeps_its_style(names: list[str]) -> None:
    found = figures.styles(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    assert all(found[name] == figures.styles([name])[name] for name in names if name in KNOWN)


@given(st.lists(st.text(), unique=True, max_size=64))
def test_names_of_any_alphabet_have_styles_of_their_own(names: list[str]) -> None:
    assert len(set(figures.styles(names).values())) == len(names)


def test_more_optimizers_than_styles_are_all_there() -> None:
    assert len(figures.styles(map(str, range(100)))) == 100


@pytest.mark.parametrize("name", ["AdamOptimizer", "adam (published)", "Adam", "adam (beta1 0.8)"])
def test_the_same_method_has_the_same_colour_with_other_dashes(name: str) -> None:
    found = figures.styles(["adam", name])
    assert found["adam"].colour == found[name].colour
    assert found["adam"].dashes != found[name].dashes


# Viénot, Brettel and Mollon (1999), for linear RGB.
_BLIND = {
    "protanopia": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deuteranopia": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


def seen(colour: str, matrix: tuple[tuple[float, ...], ...]) -> list[float]:
    linear = [part**2.2 for part in to_rgb(colour)]
    return [max(0.0, sum(a * b for a, b in zip(row, linear, strict=True))) ** (1 / 2.2) for row in matrix]


@pytest.mark.parametrize("blindness", list(_BLIND))
def test_colour_blind_readers_tell_the_colours_apart(blindness: str) -> None:
    """At least 8 % of the way from black to white, or another dash."""
    for one, other in itertools.combinations(style.COLOURS, 2):
        pairs = zip(seen(one, _BLIND[blindness]), seen(other, _BLIND[blindness]), strict=True)
        assert sum((a - b) ** 2 for a, b in pairs) ** 0.5 > 0.08, (one, other)


@pytest.mark.parametrize(
    "suffix",
    [pytest.param(suffix, marks=pytest.mark.large) if suffix == ".pdf" else suffix for suffix in style.FORMATS],
)
def test_every_format_is_written_whatever_names_hold(tmp_path: Path, suffix: str) -> None:
    with style.style():
        figure, (axis,) = style.grid(1)
        for number, name in enumerate(ODD):
            axis.semilogy([1, 2], [10**number, 1], label=style.shown(name))
        style.legend(figure, axis.lines)
    path = figures.save(figure, tmp_path / "new" / f"odd{suffix}")
    assert path.read_bytes().startswith(STARTS[suffix])


def test_pgf_has_no_character_that_tex_would_obey(tmp_path: Path) -> None:
    with style.style():
        figure, (axis,) = style.grid(1)
        axis.set(title=style.shown(ODD[0]), xlabel=style.shown(ODD[1]), ylabel=style.shown(ODD[2]))
        axis.set_xscale("log")
    text = figures.save(figure, tmp_path / "odd.pgf").read_text(encoding="utf-8")
    for escaped in (r"a\_b\%c\&d\#e\{f\}", r"50\textdollar{} and 60\textdollar{}", r"\textbackslash{}input\{x\}"):
        assert escaped in text
    assert "10^{" in text  # the exponents of the axis are mathematics


def test_another_suffix_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"out 'x.jpg': the name of a figure ends in .png, .pdf, .pgf, .svg"):
        style.check("x.jpg")


def test_a_folder_that_cannot_be_made_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with style.style():
        figure, _ = style.grid(1)
    with pytest.raises(ConfigError, match="Name another file"):
        figures.save(figure, tmp_path / "file" / "x.png")
