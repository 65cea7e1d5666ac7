"""Pictures of the examples: of the figure that a block ends with."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

from deepobs_func.analysis import figures


def scrape(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Saves the variable `figure`, once; figures of `analysis.figures` are not pyplot's, which alone are found else."""
    figure = block_vars["example_globals"].get("figure")
    if not isinstance(figure, Figure) or getattr(figure, "was_scraped", False):
        return ""
    figure.was_scraped = True
    path = str(figures.save(figure, next(block_vars["image_path_iterator"])))
    return str(figure_rst([path], gallery_conf["src_dir"]))
