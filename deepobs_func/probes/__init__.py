"""Probes of a loss at a point: per-example gradients, curvature, gradient noise."""

from deepobs_func.probes.per_example import explain as explain
from deepobs_func.probes.per_example import grad_sum_of_squares as grad_sum_of_squares
from deepobs_func.probes.per_example import grad_variance as grad_variance
from deepobs_func.probes.per_example import gram as gram
from deepobs_func.probes.per_example import per_example_dots as per_example_dots
from deepobs_func.probes.per_example import per_example_grads as per_example_grads
from deepobs_func.probes.per_example import per_example_sq_norms as per_example_sq_norms
from deepobs_func.probes.per_example import statistics as statistics
