"""Figures, by matplotlib (the extra `report`): one style, and an optimizer keeps its colour in all of them.

Every function takes `Results` and returns a figure, which `save` writes as PNG, PDF, PGF or SVG.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func.analysis.figures.by_problem import curves as curves
    from deepobs_func.analysis.figures.by_problem import performance as performance
    from deepobs_func.analysis.figures.comparison import critical_difference as critical_difference
    from deepobs_func.analysis.figures.comparison import profile as profile
    from deepobs_func.analysis.figures.comparison import targets as targets
    from deepobs_func.analysis.figures.comparison import tuning as tuning
    from deepobs_func.analysis.figures.comparison import wins as wins
    from deepobs_func.analysis.figures.demonstration import against_published as against_published
    from deepobs_func.analysis.figures.demonstration import training as training
    from deepobs_func.analysis.figures.of_layers import densities as densities
    from deepobs_func.analysis.figures.of_layers import layers as layers
    from deepobs_func.analysis.figures.one_run import panel as panel
    from deepobs_func.analysis.figures.one_run import spectrum as spectrum
    from deepobs_func.analysis.figures.one_run import tracked as tracked
    from deepobs_func.analysis.figures.paths import trajectories as trajectories
    from deepobs_func.analysis.figures.rates import sensitivity as sensitivity
    from deepobs_func.analysis.figures.sizes import batch_sizes as batch_sizes
    from deepobs_func.analysis.figures.style import save as save
    from deepobs_func.analysis.figures.style import styles as styles

_ROOMS = {
    "by_problem": ("curves", "performance"),
    "rates": ("sensitivity",),
    "comparison": ("profile", "targets", "critical_difference", "tuning", "wins"),
    "one_run": ("tracked", "panel", "spectrum"),
    "sizes": ("batch_sizes",),
    "of_layers": ("layers", "densities"),
    "paths": ("trajectories",),
    "demonstration": ("against_published", "training"),
    "style": ("save", "styles"),
}
_PATHS = {name: f"{__name__}.{room}:{name}" for room, names in _ROOMS.items() for name in names}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS)
