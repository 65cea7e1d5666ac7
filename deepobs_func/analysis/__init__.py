"""From records to tables, figures and verdicts. Imports no other room but the records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func.analysis.comparing import Comparison as Comparison
    from deepobs_func.analysis.comparing import compare as compare
    from deepobs_func.analysis.comparing import gather as gather
    from deepobs_func.analysis.racing import Race as Race
    from deepobs_func.analysis.racing import race as race
    from deepobs_func.analysis.reading import load as load
    from deepobs_func.analysis.results import Results as Results
    from deepobs_func.analysis.showing import RunSummary as RunSummary
    from deepobs_func.analysis.showing import rerun_command as rerun_command
    from deepobs_func.analysis.showing import show_run as show_run
    from deepobs_func.analysis.tables import benchmark_table as benchmark_table
    from deepobs_func.analysis.tables import best_settings as best_settings
    from deepobs_func.analysis.tables import table_text as table_text
    from deepobs_func.analysis.tolerances import against_published as against_published

_ROOMS = {
    "comparing": ("Comparison", "compare", "gather"),
    "racing": ("Race", "race"),
    "reading": ("load",),
    "results": ("Results",),
    "showing": ("RunSummary", "rerun_command", "show_run"),
    "tables": ("benchmark_table", "best_settings", "table_text"),
    "tolerances": ("against_published",),
}
_PATHS = {name: f"{__name__}.{room}:{name}" for room, names in _ROOMS.items() for name in names}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS)
