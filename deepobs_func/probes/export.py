"""Curvature matrices for other libraries: SciPy's linear operators, and curvlinops for KFAC and EKFAC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from deepobs_func import tree
from deepobs_func.base import Batch, Params, size_of
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes import contract
from deepobs_func.probes.contract import LossOrProblem, checked_ggn
from deepobs_func.probes.curvature import Matrix, linear_map
from deepobs_func.probes.linear_map import LinearMap

if TYPE_CHECKING:
    import numpy as np
    from scipy.sparse.linalg import LinearOperator

Approximation = Literal["hessian", "ggn", "kfac", "ekfac"]
CLASSES = {
    "hessian": "HessianLinearOperator",
    "ggn": "GGNLinearOperator",
    "kfac": "KFACLinearOperator",
    "ekfac": "EKFACLinearOperator",
}


class Problem(contract.Problem, Protocol):
    """A problem that can make an `nn.Module` of its net."""

    def batch_module(self, params: Params) -> nn.Module: ...


def as_scipy(
    subject: LossOrProblem | LinearMap,
    params: Params | None = None,
    batch: Any = None,
    *,
    matrix: Matrix | None = None,
) -> LinearOperator:
    """A curvature matrix as a symmetric `scipy.sparse.linalg.LinearOperator` of shape `(P, P)`.

    Its vectors are NumPy arrays in the order of `tree.flatten(params)`, in the parameters' dtype; products run where
    the parameters are.

    Args:
        subject: a loss or a Problem, whose Hessian is taken, or any `LinearMap` alone.
        params, batch: the point.
        matrix: `"hessian"` (the default) or `"ggn"` of a loss.

    Returns:
        The operator.

    Raises:
        ConfigError: the matrix is unknown, or does not fit the subject.

    >>> from deepobs_func import probes, problems
    >>> from scipy.sparse.linalg import eigsh
    >>> problem = problems.get("quadratic_deep")
    >>> params, _ = problem.init(dtype=torch.float64)
    >>> hessian = as_scipy(problem, params, problem.fake_batch(4, dtype=torch.float64))
    >>> float(eigsh(hessian, k=1, which="LA")[0][0].round(4))
    53.129
    """
    from scipy.sparse.linalg import LinearOperator

    operator = linear_map(subject, params, batch, matrix)
    like = tree.flatten(operator.like)

    def matvec(array: np.ndarray) -> np.ndarray:
        vector = torch.as_tensor(array.reshape(-1), dtype=like.dtype, device=like.device)
        return operator.flat(vector).detach().cpu().numpy()

    def matmat(array: np.ndarray) -> np.ndarray:
        columns = torch.as_tensor(array, dtype=like.dtype, device=like.device)
        return operator.columns(columns).detach().cpu().numpy()

    shape, dtype = (operator.size, operator.size), like[:0].cpu().numpy().dtype
    return LinearOperator(shape, matvec=matvec, rmatvec=matvec, matmat=matmat, rmatmat=matmat, dtype=dtype)


def as_curvlinops(
    problem: Problem,
    params: Params,
    batch: Batch,
    *,
    matrix: Approximation = "ggn",
    loss: nn.Module | None = None,
    **options: Any,
) -> Any:
    """A curvature matrix of a problem as an operator of the library curvlinops, penalty excluded.

    `"hessian"` and `"ggn"` work with every problem that has them. `"kfac"` and `"ekfac"` work with nets whose
    parameters are in dense and convolution layers, and with a loss that curvlinops knows.

    Args:
        problem, params, batch: the point.
        matrix: `"hessian"`, `"ggn"`, `"kfac"` or `"ekfac"`.
        loss: for the last two, torch's module of the problem's mean loss; `nn.CrossEntropyLoss()` by default.
        options: for curvlinops' class, e.g. `fisher_type="type-2"`, `separate_weight_and_bias=False`.

    Returns:
        A `curvlinops.PyTorchLinearOperator` of shape `(P, P)`; `operator @ tree.flatten(v)` is a product.

    Raises:
        ConfigError: curvlinops is not installed, the matrix is unknown, or curvlinops does not support the problem.

    Source: F. Dangel et al., "Position: curvature matrices should be democratized via linear operators", 2025.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> as_curvlinops(problem, params, problem.fake_batch(4), matrix="kfac").shape
    (7850, 7850)
    """
    if matrix not in CLASSES:
        raise ConfigError(unknown("matrix", str(matrix), CLASSES))
    try:
        import curvlinops
    except ImportError as error:
        raise ConfigError("as_curvlinops needs curvlinops: pip install 'deepobs-func[curvlinops]'.") from error
    if matrix == "ggn":
        checked_ggn(problem, params, batch, "as_curvlinops")
    module = problem.batch_module(params)
    if matrix in ("kfac", "ekfac"):
        criterion = _checked_loss(problem, params, batch, loss or nn.CrossEntropyLoss())
    else:
        criterion = _Criterion(problem, batch)
    parameters = [module.get_parameter(f"net.{name}") for name in params]
    try:
        return getattr(curvlinops, CLASSES[matrix])(
            module,
            criterion,
            parameters,
            [(batch, batch.y)],
            check_deterministic=False,  # a problem is a pure function
            batch_size_fn=size_of,
            **options,
        )
    except NotImplementedError as error:
        raise ConfigError(
            f"{matrix} of curvlinops does not go with {problem.name}: {error} It knows dense and convolution layers; "
            "use matrix='ggn'."
        ) from error


class _Criterion(nn.Module):
    """A problem's mean loss at one batch, `(outputs, y) -> ()`."""

    reduction = "mean"

    def __init__(self, problem: Problem, batch: Batch) -> None:
        super().__init__()
        self.problem, self.batch = problem, batch

    def forward(self, outputs: Any, y: Tensor) -> Tensor:
        return self.problem.criterion(outputs, self.batch).mean()


def _checked_loss(problem: Problem, params: Params, batch: Batch, loss: nn.Module) -> nn.Module:
    """The loss, if it is the problem's own."""
    outputs = problem.outputs(params, batch)
    advice = "Pass loss=, torch's own module of the problem's mean loss, or use matrix='ggn'."
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"KFAC takes a single tensor of outputs; those of {problem.name} are a {type(outputs).__name__}. {advice}"
        )
    expected = problem.loss(params, batch).mean()
    try:
        fits = torch.allclose(loss(outputs, batch.y), expected, rtol=1e-4)
    except (RuntimeError, ValueError, IndexError):
        fits = False
    if not fits:
        raise ConfigError(f"{type(loss).__name__} is not the loss of {problem.name}. {advice}")
    return loss
