"""The extension itself: pages are written before Sphinx reads, and plain Markdown after it has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extension import api, catalogue, docstrings, plain


def make_pages(app: Any) -> None:
    """Writes the pages that come from the package, those that changed."""
    source = Path(app.srcdir)
    for name, text in {**api.pages(), **catalogue.pages(source / "catalogue")}.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Joins Sphinx's events."""
    app.connect("builder-inited", make_pages, priority=100)
    app.connect("autodoc-process-docstring", docstrings.as_rst, priority=100)  # before napoleon
    app.connect("missing-reference", docstrings.resolve)
    app.connect("build-finished", plain.write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
