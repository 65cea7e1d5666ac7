"""The problems without a data file: the deep quadratic and the two-dimensional test functions."""

from __future__ import annotations

from deepobs_func.problems.spec import FIRST_HESSIAN, ONE_FILE, ProblemSpec


def _two_d(function: str, u: float, v: float) -> ProblemSpec:
    return ProblemSpec(
        f"two_d_{function}",
        "two_d",
        "deepobs_func.nets.quadratic:Point",
        f"deepobs_func.problems.measures:{function}",
        2,
        100,
        128,
        net_args={"u": u, "v": v},
        accuracy=False,
        hvp_mode="reverse-over-reverse",
        defaults_chosen_here=True,
        deviations=ONE_FILE,
    )


SPECS = (
    ProblemSpec(
        "quadratic_deep",
        "quadratic",
        "deepobs_func.nets.quadratic:Quadratic",
        "deepobs_func.problems.measures:quadratic",
        100,
        100,
        128,
        accuracy=False,
        hvp_mode="reverse-over-reverse",
        deviations=(*ONE_FILE, FIRST_HESSIAN),
    ),
    _two_d("rosenbrock", -0.5, 1.5),
    _two_d("beale", -4.5, 4.5),
    _two_d("branin", 2.5, 12.5),
)
