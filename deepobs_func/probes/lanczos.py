"""The Lanczos iteration: the tridiagonal matrix of a symmetric map in a Krylov space."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Stop = Callable[["Tridiagonal"], bool]


class Tridiagonal(NamedTuple):
    """`Q^T A Q` after m steps.

    Attributes:
        alphas: the diagonal, `(m,)`.
        betas: below the diagonal, `(m,)`; the last one is the norm of what is left outside of the Krylov space.
        basis: Q, orthonormal rows, `(m, P)`.
    """

    alphas: Float[Tensor, " m"]
    betas: Float[Tensor, " m"]
    basis: Float[Tensor, "m P"]

    def eigh(self) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
        """Eigenvalues in ascending order and, as columns, eigenvectors of the tridiagonal matrix.

        The eigenvalues of a map that is not finite, as where a run diverged, are NaN; LAPACK would raise an error.
        """
        below = torch.diag_embed(self.betas[:-1], offset=-1)
        matrix = torch.diag_embed(self.alphas) + below + below.mT
        finite = matrix.isfinite().all()
        values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
        return torch.where(finite, values, torch.nan), vectors


def lanczos(
    product: Callable[[Tensor], Tensor], start: Float[Tensor, " P"], steps: int, stop: Stop = lambda _: False
) -> Tridiagonal:
    """Runs Lanczos with full reorthogonalisation (classical Gram-Schmidt, twice).

    Where the Krylov space closes before the last step, the iteration goes on with a direction orthogonal to it, at a
    beta of 0: every eigenvalue of the result is one of the map, and the new part has no weight in the start vector.
    That needs no look at values, so the iteration works under `vmap` and in a compiled graph.

    Args:
        product: the map, `(P,) -> (P,)`.
        start: any nonzero vector.
        steps: m, at most P.
        stop: looks at the matrix so far after each step and says whether it is enough.

    Source: C. Lanczos, J. Res. Nat. Bur. Standards 1950; C. Paige, "Practical use of the symmetric Lanczos process
    with re-orthogonalization", BIT 1970.
    """
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    basis = (start / start.norm()).unsqueeze(0)
    scale = torch.zeros_like(start[0])  # of the map, as far as it has been seen
    rounding = 10 * torch.finfo(start.dtype).eps
    for step in range(1, steps + 1):
        image = product(basis[-1])
        alphas.append(basis[-1] @ image)
        rest = _orthogonal(image, basis)
        scale = torch.maximum(scale, image.norm())
        closed = rest.norm() <= rounding * scale
        betas.append(torch.where(closed, 0.0, rest.norm()))
        result = Tridiagonal(torch.stack(alphas), torch.stack(betas), basis)
        if step == steps or stop(result):
            break
        direction = torch.where(closed, start.roll(step), rest)
        direction = _orthogonal(direction / direction.norm(), basis)
        basis = torch.cat((basis, (direction / direction.norm()).unsqueeze(0)))
    return result


def _orthogonal(vector: Float[Tensor, " P"], basis: Float[Tensor, "m P"]) -> Float[Tensor, " P"]:
    """The part of a vector that is orthogonal to orthonormal rows."""
    return vector - (basis @ vector) @ basis
