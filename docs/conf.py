"""The documentation site: `make docs` builds it into build/site."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ.setdefault("DEEPOBS_CACHE", str(HERE.parent / "build" / "cache"))  # not the user's


from deepobs_func import __version__  # noqa: E402

project = "deepobs_func"
author = "the deepobs_func authors"
copyright = "the deepobs_func authors, MIT licence"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "extension.setting",
]
exclude_patterns = ["extension", "gallery/**/*.ipynb", "gallery/**/*.py"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3  # as code hosts make them
suppress_warnings = ["config.cache"]  # of sphinx-gallery's settings, which hold functions

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_param = False
napoleon_numpy_docstring = False
# What stands before a colon in these sections of ours is no type.
napoleon_custom_sections = ["Returns", "Yields", ("Attributes", "params_style"), ("Raises", "params_style")]
nitpick_ignore_regex = [
    # Other projects' names: their inventories would be fetched.
    (r"py:.*", r"(torch|nn|np|numpy|pd|pandas|scipy|matplotlib|jaxtyping|optuna)\..*"),
    (r"py:.*", r"(collections|contextlib|datetime|pathlib|types|typing)\..*"),
    (r"py:.*", r"[^.]*|random\.Key"),  # aliases, variables of types and dimensions of arrays
]

html_theme = "pydata_sphinx_theme"
html_title = "deepobs_func"
html_copy_source = False  # plain Markdown lies beside each page, see extension/plain.py
html_show_sourcelink = False
# Pages with none below them: a navigation of the section would be empty.
html_sidebars: dict[str, list[str]] = {
    page: [] for page in ("start", "concepts", "troubleshooting", "migration", "deviations")
}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "show_signature": False,
    "image_scrapers": ("extension.gallery.scrape",),
    "capture_repr": ("_repr_html_",),
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "plot_gallery": os.environ.get("DEEPOBS_GALLERY", "1") == "1",  # 0: the site without running the examples
    "min_reported_time": 0,
    "write_computation_times": False,
}
