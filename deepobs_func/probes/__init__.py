"""Probes of a loss at a point: curvature products and what follows from them."""

from deepobs_func.probes.curvature import ggnvp as ggnvp
from deepobs_func.probes.curvature import hvp as hvp
from deepobs_func.probes.curvature import make_ggnvp as make_ggnvp
from deepobs_func.probes.curvature import make_hvp as make_hvp
from deepobs_func.probes.fisher import fisher_vp as fisher_vp
from deepobs_func.probes.fisher import make_fisher_vp as make_fisher_vp
from deepobs_func.probes.linear_map import LinearMap as LinearMap
from deepobs_func.probes.linear_map import over as over
