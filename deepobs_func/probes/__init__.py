"""Probes of a loss at a point: curvature products and what follows from them."""

from deepobs_func.probes.curvature import ggnvp as ggnvp
from deepobs_func.probes.curvature import hvp as hvp
from deepobs_func.probes.curvature import make_ggnvp as make_ggnvp
from deepobs_func.probes.curvature import make_hvp as make_hvp
from deepobs_func.probes.estimators import diagonal as diagonal
from deepobs_func.probes.estimators import trace as trace
from deepobs_func.probes.fisher import fisher_vp as fisher_vp
from deepobs_func.probes.fisher import make_fisher_vp as make_fisher_vp
from deepobs_func.probes.linear_map import LinearMap as LinearMap
from deepobs_func.probes.linear_map import over as over
from deepobs_func.probes.operators import as_curvlinops as as_curvlinops
from deepobs_func.probes.operators import as_scipy as as_scipy
from deepobs_func.probes.solve import conjugate_gradients as conjugate_gradients
from deepobs_func.probes.spectrum import lanczos_eigenvalues as lanczos_eigenvalues
from deepobs_func.probes.spectrum import spectral_density as spectral_density
