"""Probes of a loss at a point: per-example gradients, curvature and what follows from it, gradient noise.

What can be tracked in a run is listed without importing torch (`probes.catalog`); everything else imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func.probes.by_layer import grams_by_layer as grams_by_layer
    from deepobs_func.probes.curvature import ggnvp as ggnvp
    from deepobs_func.probes.curvature import hvp as hvp
    from deepobs_func.probes.curvature import make_ggnvp as make_ggnvp
    from deepobs_func.probes.curvature import make_hvp as make_hvp
    from deepobs_func.probes.estimators import diagonal as diagonal
    from deepobs_func.probes.estimators import trace as trace
    from deepobs_func.probes.export import as_curvlinops as as_curvlinops
    from deepobs_func.probes.export import as_scipy as as_scipy
    from deepobs_func.probes.fisher import fisher_vp as fisher_vp
    from deepobs_func.probes.fisher import make_fisher_vp as make_fisher_vp
    from deepobs_func.probes.kernel import ntk as ntk
    from deepobs_func.probes.linear_map import LinearMap as LinearMap
    from deepobs_func.probes.linear_map import over as over
    from deepobs_func.probes.per_example import explain as explain
    from deepobs_func.probes.per_example import grad_sum_of_squares as grad_sum_of_squares
    from deepobs_func.probes.per_example import grad_variance as grad_variance
    from deepobs_func.probes.per_example import gram as gram
    from deepobs_func.probes.per_example import per_example_dots as per_example_dots
    from deepobs_func.probes.per_example import per_example_grads as per_example_grads
    from deepobs_func.probes.per_example import per_example_sq_norms as per_example_sq_norms
    from deepobs_func.probes.per_example import statistics as statistics
    from deepobs_func.probes.solve import conjugate_gradients as conjugate_gradients
    from deepobs_func.probes.spectrum import lanczos_eigenvalues as lanczos_eigenvalues
    from deepobs_func.probes.spectrum import spectral_density as spectral_density

_ROOMS = {
    "curvature": ("hvp", "ggnvp", "make_hvp", "make_ggnvp"),
    "estimators": ("trace", "diagonal"),
    "fisher": ("fisher_vp", "make_fisher_vp"),
    "by_layer": ("grams_by_layer",),
    "linear_map": ("LinearMap", "over"),
    "kernel": ("ntk",),
    "export": ("as_curvlinops", "as_scipy"),
    "per_example": (
        *("statistics", "per_example_grads", "per_example_sq_norms", "per_example_dots"),
        *("grad_sum_of_squares", "grad_variance", "gram", "explain"),
    ),
    "solve": ("conjugate_gradients",),
    "spectrum": ("lanczos_eigenvalues", "spectral_density"),
}
_PATHS = {name: f"{__name__}.{room}:{name}" for room, names in _ROOMS.items() for name in names}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS)
