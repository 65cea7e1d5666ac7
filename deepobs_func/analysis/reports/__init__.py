"""The report: one HTML file that works offline, verdict first; ranks follow what the reader chooses.

Plots are drawn by plotly.js (the extra `report`), which is in the file; the page is a Jinja2 template. What is ranked
in the browser is computed as in `ranking`, which is compared with it in a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func.analysis.reports.page import write_report as write_report
    from deepobs_func.analysis.reports.ranking import Choice as Choice
    from deepobs_func.analysis.reports.ranking import rank_overall as rank_overall
    from deepobs_func.analysis.reports.ranking import rank_problem as rank_problem

_ROOMS = {"page": ("write_report",), "ranking": ("Choice", "rank_overall", "rank_problem")}
_PATHS = {name: f"{__name__}.{room}:{name}" for room, names in _ROOMS.items() for name in names}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS)
