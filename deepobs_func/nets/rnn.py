"""The character-level LSTM: embedding, two layers of 128, dense; dropout on inputs and outputs of both layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from deepobs_func.base import Outer
from deepobs_func.errors import ConfigError
from deepobs_func.nets.initializers import Initializer, glorot_uniform, uniform
from deepobs_func.nets.layers import Dense, Layer, Pass, positions_last
from deepobs_func.nets.noise import Dropout

VOCABULARY, HIDDEN, TIME = 83, 128, 50
FORGET_BIAS = 1.0


class LSTM(Layer):
    """One LSTM layer, `(B, T, inputs) -> (B, T, hidden)`.

    `i, j, f, o = [x, h] W^T + b`; `c <- sigmoid(f + 1) c + sigmoid(i) tanh(j)`; `h <- sigmoid(o) tanh(c)`.

    Parameters `weight (4 hidden, inputs + hidden)` and `bias (4 hidden,)`, gates in TensorFlow's order i, j, f, o. The
    state before and after is in the `Pass`, as `<path>.c` and `<path>.h`, `(B, hidden)`; a missing one is zero.

    A pass that allows fused kernels runs torch's, which serves the plain gradient; any other runs a cell of primitives,
    which everything in `torch.func` goes through. Both give the same numbers.

    Source: TensorFlow's `LSTMCell`.
    """

    weight: Tensor
    bias: Tensor
    tensorflow_axes: ClassVar = {"weight": (1, 0)}

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.carried = {"c": (hidden,), "h": (hidden,)}
        self.declare("weight", (4 * hidden, inputs + hidden), glorot_uniform())
        self.declare("bias", (4 * hidden,), uniform(0.0))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        zeros = x.new_zeros(x.shape[0], self.hidden)
        c, h = (p.carry_in.get(f"{self.path}.{name}", zeros) for name in ("c", "h"))
        y, c, h = self._fused(x, c, h) if p.fused and not _is_half(x) else self._cell(x, c, h, p)
        p.carry[f"{self.path}.c"], p.carry[f"{self.path}.h"] = c.detach(), h.detach()
        return y

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        g = positions_last(g)  # of the gates, (B, 4 hidden, T)
        return {"weight": Outer(g, positions_last(x)), "bias": g.sum(2)}

    def _cell(self, x: Tensor, c: Tensor, h: Tensor, p: Pass) -> tuple[Tensor, Tensor, Tensor]:
        gates = x @ self.weight[:, : self.inputs].mT + self.bias  # all inputs at once, (B, T, 4 hidden)

        def inputs_of_the_cell() -> Tensor:  # (B, T, inputs + hidden); a tap wants every step's before the first
            before = torch.cat((h.unsqueeze(1), self._unrolled(gates, c, h)[0][:, :-1]), dim=1)
            return torch.cat((x, before), dim=-1)

        return self._unrolled(p.tapped(self, inputs_of_the_cell, gates), c, h)

    def _unrolled(self, from_x: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from_h = self.weight[:, self.inputs :]
        outputs = []
        for gates in from_x.unbind(1):
            i, j, f, o = (gates + h @ from_h.mT).chunk(4, dim=-1)
            c = torch.sigmoid(f + FORGET_BIAS) * c + torch.sigmoid(i) * torch.tanh(j)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, dim=1), c, h

    def _fused(self, x: Tensor, c: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = (torch_order(tensor) for tensor in (self.weight, self.bias))
        forget = torch.zeros_like(bias)
        forget[self.hidden : 2 * self.hidden] = FORGET_BIAS
        parts = [weight[:, : self.inputs], weight[:, self.inputs :], bias, forget]
        by_cudnn = x.device.type == "cuda"
        if by_cudnn:
            parts = in_one_block(parts)
        for name, each in (("c", c), ("h", h)):
            if each.shape != (x.shape[0], self.hidden):  # by which torch.lstm aborts the process
                raise ConfigError(
                    f"The state {self.path}.{name} has shape {tuple(each.shape)}; of a batch of {x.shape[0]} it is "
                    f"{(x.shape[0], self.hidden)}. Take problem.zero_carry({x.shape[0]})."
                )
        state = (h.unsqueeze(0), c.unsqueeze(0))
        train = by_cudnn and torch.is_grad_enabled()  # without which cuDNN has no backward pass; there is no dropout
        # has_biases, num_layers, dropout, train, bidirectional, batch_first
        y, h, c = torch.lstm(x, state, parts, True, 1, 0.0, train, False, True)
        return y, c[0], h[0]


def in_one_block(parts: Sequence[Tensor]) -> list[Tensor]:
    """The same tensors, one after the other in one block of memory: cuDNN copies others there, with a warning."""
    flat = torch.cat([part.flatten() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(flat.split([p.numel() for p in parts]), parts, strict=True)]


def torch_order(tensor: Tensor) -> Tensor:
    """Gates i, j, f, o to torch's i, f, g (= j), o."""
    i, j, f, o = tensor.chunk(4)
    return torch.cat((i, f, j, o))


class CharRNN(nn.Module):
    """Character ids `(B, T)` -> logits `(B, T, 83)`. Source: `tolstoi_char_rnn.py` of DeepOBS 1.1.2."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding(VOCABULARY, HIDDEN)
        self.lstm1, self.lstm2 = LSTM(HIDDEN, HIDDEN), LSTM(HIDDEN, HIDDEN)
        self.into1, self.out1, self.into2, self.out2 = (Dropout(0.2, (TIME, HIDDEN)) for _ in range(4))
        bound = math.sqrt(6.0 / (VOCABULARY + VOCABULARY))  # Glorot's on a vector, as the reference draws it
        self.dense = Dense(HIDDEN, VOCABULARY, bias=uniform(bound))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = self.into1(self.embedding(x, p), p)  # (B, T, 128)
        x = self.into2(self.out1(self.lstm1(x, p), p), p)
        return self.dense(self.out2(self.lstm2(x, p), p), p)


class Embedding(Layer):
    """Rows of `weight (entries, width)` by id."""

    weight: Tensor

    def __init__(self, entries: int, width: int, weight: Initializer | None = None) -> None:
        super().__init__()
        self.declare("weight", (entries, width), weight or glorot_uniform())

    def forward(self, ids: Tensor, p: Pass) -> Tensor:
        return p.tapped(self, ids, self.weight[ids])

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        at = x.unsqueeze(1) == torch.arange(self.weight.shape[0], device=x.device).unsqueeze(1)  # (B, entries, T)
        return {"weight": Outer(at.to(g.dtype), positions_last(g))}


def _is_half(x: Tensor) -> bool:
    """Whether autocast is on, on a CPU: oneDNN's LSTM in half precision refuses some shapes on some processors."""
    return x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
