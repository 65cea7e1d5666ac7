"""Plain modules with a loss of their own: the VAE, the character LSTM, the quadratic, the two-dimensional functions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import Plain, Sums
from deepobs_func.nets.quadratic import hessian


class VAE(Plain):
    """The variational auto-encoder with 8 latent variables."""

    def __init__(self) -> None:
        super().__init__()
        act, drop = nn.LeakyReLU(0.3), nn.Dropout(0.2)
        self.encoder = nn.Sequential(
            *(nn.Conv2d(1, 64, 4, 2, padding=1), act, drop),
            *(nn.Conv2d(64, 64, 4, 2, padding=1), act, drop),
            *(nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(64, 64, 4), act, drop, nn.Flatten()),
        )
        self.mean, self.log_std = nn.Linear(3136, 8), nn.Linear(3136, 8)
        self.decoder = nn.Sequential(
            *(nn.Linear(8, 24), act, nn.Linear(24, 49), act, nn.Unflatten(1, (1, 7, 7))),
            *(nn.ConvTranspose2d(1, 64, 4, 2, padding=1), nn.ReLU(), drop),
            *(_SameTranspose(64, 64, 4, padding=1), nn.ReLU(), drop),
            *(_SameTranspose(64, 64, 4, padding=1), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(12544, 784), nn.Sigmoid()),
        )

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        features = self.encoder(x)
        mean, log_std = self.mean(features), 0.5 * self.log_std(features)
        image = self.decoder(mean + self.epsilon(mean) * log_std.exp())
        image_loss = F.mse_loss(image, x.flatten(1), reduction="sum")
        divergence = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).sum()
        return (image_loss + divergence) / len(x)

    def epsilon(self, mean: Tensor) -> Tensor:
        """The noise of the latent variables."""
        return torch.randn_like(mean)


class _SameTranspose(nn.ConvTranspose2d):
    """Cut to the size of its input."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[..., :-1, :-1]


class CharRNN(Plain):
    """Embedding, two LSTM layers with dropout around them, dense; the state goes on from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(83, 128), nn.Dropout(0.2)
        self.lstm1, self.lstm2 = nn.LSTM(128, 128, batch_first=True), nn.LSTM(128, 128, batch_first=True)
        self.dense = nn.Linear(128, 83)
        self.restart()

    def restart(self) -> None:
        self.state1: tuple[Tensor, Tensor] | None = None
        self.state2: tuple[Tensor, Tensor] | None = None

    def forward(self, ids: Tensor) -> Tensor:
        x, (h, c) = self.lstm1(self.dropout(self.embedding(ids)), self.state1)
        self.state1 = h.detach(), c.detach()
        x, (h, c) = self.lstm2(self.dropout(self.dropout(x)), self.state2)
        self.state2 = h.detach(), c.detach()
        return self.dense(self.dropout(x))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())

    def sums(self, x: Tensor, y: Tensor) -> Sums:
        logits = self(x)
        correct = (logits.argmax(-1) == y).float().mean(1).sum()
        return Sums(F.cross_entropy(logits.flatten(0, 1), y.flatten()) * len(x), correct)


class Quadratic(Plain):
    """`0.5 (theta - x)^T H (theta - x)`."""

    hessian: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(100))
        self.register_buffer("hessian", torch.as_tensor(hessian(), dtype=torch.float32))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        offset = self.theta - x
        return 0.5 * ((offset @ self.hessian) * offset).sum(1).mean()


def rosenbrock(u: Tensor, v: Tensor) -> Tensor:
    """Rosenbrock's valley."""
    return (1 - u) ** 2 + 100 * (v - u**2) ** 2


def beale(u: Tensor, v: Tensor) -> Tensor:
    """Beale's function."""
    return (1.5 - u + u * v) ** 2 + (2.25 - u + u * v**2) ** 2 + (2.625 - u + u * v**3) ** 2


def branin(u: Tensor, v: Tensor) -> Tensor:
    """Branin's function."""
    valley = v - 5.1 / (4 * math.pi**2) * u**2 + 5 / math.pi * u - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * torch.cos(u) + 10


_FUNCTIONS = {"rosenbrock": rosenbrock, "beale": beale, "branin": branin}


class Point(Plain):
    """A function of two numbers, with noise on its gradient."""

    def __init__(self, function: str, u: float, v: float) -> None:
        super().__init__()
        self.function = _FUNCTIONS[function]
        self.u, self.v = nn.Parameter(torch.tensor(u)), nn.Parameter(torch.tensor(v))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.function(self.u, self.v) + self.u * x + self.v * y).mean()
