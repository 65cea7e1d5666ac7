"""One style for every figure: colours that colour-blind readers tell apart, one for an optimizer everywhere."""

from __future__ import annotations

import hashlib
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deepobs_func.analysis.published import counterpart
from deepobs_func.errors import ConfigError, option

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deepobs_func.analysis.results import Results

SYNTHETIC = "STAND-IN DATA: NOT A RESULT"
FORMATS = (".png", ".pdf", ".pgf", ".svg")
# Okabe and Ito (2008), without their yellow, which white paper hides; an olive of Tol's stands for it.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999933")
# On and off, in line widths; () is solid.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (4, 1.5),
    (1, 1.2),
    (5, 1.5, 1, 1.5),
    (8, 2),
    (2, 1),
    (8, 1.5, 2, 1.5),
    (4, 1, 1, 1, 1, 1),
)
_KNOWN = (
    *("sgd", "momentum", "adam", "adamw", "rmsprop", "nesterov", "newton_cg", "adahessian", "sophia_h", "sgd_cabs"),
    *(
        "kfac",
        "ekfac",
        "shampoo",
        "soap",
        "muon",
        "schedule_free_sgd",
        "schedule_free_adamw",
        "nadamw",
        "lion",
        "prodigy",
    ),
    *("lbfgs", "sgd_line_search"),
)
_TEX = {each: f"\\{each}" for each in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≥": r"\ensuremath{\geq}",
    "≤": r"\ensuremath{\leq}",
}
# Alphabets that the first font lacks; those that a machine has not are left out.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "IPAexGothic", "Noto Sans Arabic")
_LONGEST = 36  # characters of a name
_PER_COLUMN = 22  # names in a column of a legend
RC: dict[Any, Any] = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "axes.titlelocation": "left",
    "figure.titlesize": "large",
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.loc": "upper right",  # "best" looks at every point: with a warning where that takes a second
    "legend.fontsize": "small",
    "legend.handlelength": 3.2,  # so that dashes are told apart
    "lines.linewidth": 1.6,
    "pdf.fonttype": 42,  # text that can be searched
    "pgf.rcfonts": False,  # the fonts of the document
    "svg.fonttype": "none",
    "svg.hashsalt": "deepobs",
}


class Style(NamedTuple):
    """How the curves of an optimizer are drawn.

    Attributes:
        colour: as `#rrggbb`.
        dashes: lengths on and off, in line widths; empty for a solid line.
    """

    colour: str
    dashes: tuple[float, ...]

    @property
    def line(self) -> dict[str, Any]:
        """The arguments of matplotlib's `plot`."""
        return {"color": self.colour, "linestyle": (0, self.dashes) if self.dashes else "-"}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style of its own for each name, as far as there are: 8 colours, each with 8 dashes.

    A functional optimizer has the same one in every figure. What else is of its method, such as the published runs, has
    its colour with other dashes. Another name has the colour that its hash says, or the next one where that is taken.

    Args:
        names: of all optimizers that are told apart, in every figure of theirs.

    Returns:
        The style of each name.

    >>> styles(["adam", "mine"])["adam"] == styles(["sgd", "momentum", "adam"])["adam"]
    True
    """
    names = list(dict.fromkeys(names))
    every = [Style(colour, dashes) for dashes in DASHES for colour in COLOURS]
    found = {name: every[_KNOWN.index(name)] for name in names if name in _KNOWN}
    taken = set(found.values())
    for name in names:
        if name in found:
            continue
        family = _family(name)
        colour = _KNOWN.index(family) if family in _KNOWN else _hash(name)
        row = every[colour % len(COLOURS) :: len(COLOURS)] if family in _KNOWN else ()
        order = [*row, *every[colour % len(COLOURS) : len(COLOURS)], *every]
        found[name] = next((style for style in order if style not in taken), order[0])
        taken.add(found[name])
    return {name: found[name] for name in names}


def _family(name: str) -> str:
    """The functional optimizer of the same method, if the name begins with that."""
    first = re.split(r"[\s,(]", name, maxsplit=1)[0]
    return counterpart(first) or first


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def shown(name: str) -> str:
    r"""A name as a label: short enough, and no mathematics, whatever it holds.

    >>> print(shown("a$b"), len(shown("x" * 99)))
    a\$b 36
    """
    half = _LONGEST // 2
    short = name if len(name) <= _LONGEST else f"{name[: half - 1]}…{name[-half:]}"
    return short.replace("$", r"\$")


@contextmanager
def style() -> Iterator[None]:
    """Within it, figures are made in this package's style."""
    import matplotlib
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    family = [font for font in _FONTS if font in installed or font == _FONTS[0]]
    with matplotlib.rc_context({**RC, "font.family": family}):
        yield


def grid(panels: int, columns: int = 4, width: float = 3.3, height: float = 2.7) -> tuple[Figure, list[Axes]]:
    """A figure of as many panels, at most `columns` beside each other, of `width` x `height` inches each."""
    from matplotlib.figure import Figure

    columns = min(columns, panels)
    rows = -(-panels // columns)
    figure = Figure(figsize=(max(width * columns, 4.2), height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def legend(figure: Figure, handles: Sequence[Any], title: str = "") -> None:
    """One legend for all panels, on their right; the figure grows by what it takes."""
    if not handles:
        return
    columns = -(-len(handles) // _PER_COLUMN)
    longest = max(len(str(handle.get_label())) for handle in handles)
    figure.set_figwidth(figure.get_figwidth() + columns * (0.75 + 0.068 * min(longest, _LONGEST)))
    lowest = 0.45 + 0.19 * min(len(handles), _PER_COLUMN)
    figure.set_figheight(max(figure.get_figheight(), lowest))
    figure.legend(handles=handles, loc="outside right upper", ncols=columns, title=title or None, alignment="left")


def mark(figure: Figure, synthetic: bool) -> Figure:
    """The figure; one of stand-in data says so above all panels."""
    if synthetic:
        above = figure.get_suptitle()
        figure.suptitle(f"{above}\n{SYNTHETIC}" if above else SYNTHETIC, color="#b00020")
    return figure


def any_synthetic(results: Results, problems: Iterable[str]) -> bool:
    """Whether any run of some problems was on stand-in data."""
    runs = results.runs[results.runs["problem"].isin(list(problems))]
    return bool((runs["data"] == "synthetic").any())


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure.

    PGF needs no TeX on this machine: texts are measured by matplotlib's own fonts. The document brings its fonts; one
    with names of other alphabets is for XeTeX or LuaTeX.

    Args:
        figure: what to write.
        path: a PNG, PDF, PGF or SVG file, by its name.

    Returns:
        The path.

    Raises:
        ConfigError: another suffix, or a folder that cannot be made.
    """
    path = check(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from (current )?font")  # a box stands there
            if path.suffix == ".pgf":
                _save_pgf(figure, path)
            else:
                undated: dict[str, Any] = {} if path.suffix == ".png" else {"metadata": {_DATES[path.suffix]: None}}
                figure.savefig(path, dpi=150, **undated)
    except OSError as error:
        raise ConfigError(f"{option('out')} {path}: {error}. Name another file.") from error
    return path


_DATES = {".pdf": "CreationDate", ".svg": "Date"}


def check(path: str | Path) -> Path:
    """A path, if a figure can be written under this name.

    Raises:
        ConfigError: the suffix is none of `FORMATS`.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ConfigError(f"{option('out')} {str(path)!r}: the name of a figure ends in {', '.join(FORMATS)}.")
    return path


def _save_pgf(figure: Figure, path: Path) -> None:
    """Matplotlib would measure texts by TeX, which not every machine has, and which few alphabets have."""
    from unittest.mock import patch

    from matplotlib.backend_bases import RendererBase
    from matplotlib.backends.backend_pgf import RendererPgf
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(_as_tex(text.get_text()))
    measure = RendererBase.get_text_width_height_descent
    with patch.object(RendererPgf, "get_text_width_height_descent", measure):
        figure.savefig(path)


def _as_tex(text: str) -> str:
    """A label with TeX's own characters escaped, but for its mathematics."""
    plain = text.replace(r"\$", "\0").split("$")
    parts = [
        part if odd else "".join(_TEX.get(each, each) for each in part)
        for odd, part in zip(itertools.cycle((False, True)), plain, strict=False)
    ]
    return "$".join(parts).replace("\0", r"\textdollar{}")
