"""Every page as plain Markdown beside its HTML, and `llms.txt`, the list of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from extension import api

SUMMARY = "Test problems for optimizers as pure functions: DeepOBS rewritten for PyTorch on torch.func."
_FENCED = re.compile(r"^:::.*?^:::\n?", re.MULTILINE | re.DOTALL)


def write(app: Any, error: Exception | None) -> None:
    """Writes `NAME.md` for each page, `llms.txt` and `llms-full.txt`, into a site of HTML."""
    if error is not None or app.builder.format != "html":
        return
    out, texts = Path(app.outdir), {}
    for name in sorted(app.env.found_docs):
        text = texts[name] = page(Path(app.env.doc2path(name)), name)
        path = out / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (out / "llms.txt").write_text(listing(texts), encoding="utf-8")
    (out / "llms-full.txt").write_text("\n\n".join(texts.values()), encoding="utf-8")


def page(path: Path, name: str) -> str:
    """The Markdown of a page: its source, or, where that is none, the docstrings or the notebook behind it."""
    if path.suffix == ".md":
        return _FENCED.sub("", path.read_text(encoding="utf-8"))
    if name == "api/index":
        return "# API reference\n\n" + "\n".join(f"* [{room}]({room}.md)" for room in api.ROOMS) + "\n"
    if name.startswith("api/"):
        return api.as_markdown(name.removeprefix("api/"))
    if path.with_suffix(".ipynb").exists():
        return from_notebook(json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8")))
    names = sorted(each.stem for each in path.parent.glob("*.ipynb"))
    return "# Examples\n\n" + "\n".join(f"* [{each}]({each}.md)" for each in names) + "\n"


def from_notebook(notebook: dict[str, Any]) -> str:
    """The cells of a notebook: text as it is, code in fences."""
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"]).strip()
        cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(cells) + "\n"


def listing(texts: dict[str, str]) -> str:
    """The list of all pages, in the layout of llmstxt.org."""
    groups: dict[str, list[str]] = {}
    for name, text in texts.items():
        folder = name.rpartition("/")[0]
        heading = re.search(r"^# (.*)$", text, re.MULTILINE)
        groups.setdefault(folder, []).append(f"- [{heading[1] if heading else name}]({name}.md)")
    titles = {"": "Guide", "howto": "How to", "gallery": "Examples", "catalogue": "Problems", "api": "API"}
    parts = [f"## {title}\n\n" + "\n".join(groups[folder]) for folder, title in titles.items() if folder in groups]
    return f"# deepobs_func\n\n> {SUMMARY}\n\n" + "\n\n".join(parts) + "\n"
