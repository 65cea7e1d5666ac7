"""Recurrent nets step by step: torch's fused kernels have no rule for `vmap`, and on GPUs no second derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
Weights = Sequence[Tensor | None]
Cell = Callable[[Tensor, State, Weights], State]


def _products(x: Tensor, h: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """`W x + b` and `U h + c` of the gates of one step, `(B, gates)` each."""
    w, u, b, c = weights[:4]
    return F.linear(x, w, b), F.linear(h, u, c)  # type: ignore[arg-type]  # only biases may be missing


def _lstm_step(x: Tensor, state: State, weights: Weights) -> State:
    h, c = state
    i, f, g, o = sum(_products(x, h, weights)).chunk(4, -1)  # type: ignore[union-attr]  # a sum of tensors is a tensor
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    projection = weights[4] if len(weights) > 4 else None
    return h if projection is None else F.linear(h, projection), c


def _gru_step(x: Tensor, state: State, weights: Weights) -> State:
    (h,) = state
    of_input, of_state = (side.chunk(3, -1) for side in _products(x, h, weights))
    reset, update = ((a + b).sigmoid() for a, b in zip(of_input[:2], of_state[:2], strict=True))
    new = (of_input[2] + reset * of_state[2]).tanh()
    return (new + update * (h - new),)


def _tanh_step(x: Tensor, state: State, weights: Weights) -> State:
    a, b = _products(x, state[0], weights)
    return ((a + b).tanh(),)


def _relu_step(x: Tensor, state: State, weights: Weights) -> State:
    a, b = _products(x, state[0], weights)
    return ((a + b).relu(),)


def _direction(
    cell: Cell, xs: Sequence[Tensor], state: State, weights: Weights, *, reverse: bool
) -> tuple[list[Tensor], State]:
    """All steps of one layer in one direction; a step of a packed sequence moves the first of the states only."""
    outputs = []
    for x in reversed(xs) if reverse else xs:
        moved = cell(x, tuple(part[: len(x)] for part in state), weights)
        outputs.append(moved[0])
        whole = len(x) == len(state[0])
        state = (
            moved if whole else tuple(torch.cat((new, old[len(x) :])) for new, old in zip(moved, state, strict=True))
        )
    return outputs[::-1] if reverse else outputs, state


def _layers(
    cell: Cell,
    xs: Sequence[Tensor],
    states: State,
    weights: Weights,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
) -> tuple[list[Tensor], State]:
    """All layers: the outputs of the steps, and the last states of all layers and directions, stacked."""
    directions = 2 if bidirectional else 1
    size = len(weights) // (num_layers * directions)  # tensors of a direction: an LSTM may have a projection
    last: list[State] = []
    xs = list(xs)
    for layer in range(num_layers):
        if layer and train and dropout:
            xs = [F.dropout(x, dropout) for x in xs]
        sides = []
        for direction in range(directions):
            index = layer * directions + direction
            own = list(weights[index * size : (index + 1) * size])
            own = own if has_biases else [*own[:2], None, None, *own[2:]]
            first = tuple(part[index] for part in states)
            outputs, state = _direction(cell, xs, first, own, reverse=direction == 1)
            sides.append(outputs)
            last.append(state)
        xs = [torch.cat(parts, -1) if directions == 2 else parts[0] for parts in zip(*sides, strict=True)]
    return xs, tuple(torch.stack(parts) for parts in zip(*last, strict=True))


def _network(cell: Cell) -> Callable[..., Any]:
    """The formula of `torch.lstm`, `torch.gru` and the like, of padded or of packed sequences."""

    def network(x: Tensor, second: Any, third: Any, *rest: Any) -> Any:
        if isinstance(third, Tensor) or isinstance(rest[0], bool) is False:  # (data, batch_sizes, hx, weights, ...)
            states, weights, options = third, rest[0], rest[1:]
            steps = list(x.split(second.tolist()))
            batch_first = None
        else:
            states, weights, options = second, third, rest[:-1]
            batch_first = bool(rest[-1])
            steps = list(x.unbind(1 if batch_first else 0))
        several = not isinstance(states, Tensor)
        outputs, last = _layers(cell, steps, tuple(states) if several else (states,), weights, *options)
        if batch_first is None:
            return torch.cat(outputs), *last
        return torch.stack(outputs, 1 if batch_first else 0), *last

    return network


def _single(cell: Cell) -> Callable[..., Any]:
    """The formula of `torch.lstm_cell`, `torch.gru_cell` and the like."""

    def step(x: Tensor, state: Any, *weights: Tensor | None) -> Any:
        several = not isinstance(state, Tensor)
        moved = cell(x, tuple(state) if several else (state,), [*weights, None, None][:4])
        return moved if several else moved[0]

    return step


FORMULAS: dict[Any, Callable[..., Any]] = {
    torch.lstm: _network(_lstm_step),
    torch.gru: _network(_gru_step),
    torch.rnn_tanh: _network(_tanh_step),
    torch.rnn_relu: _network(_relu_step),
    torch.lstm_cell: _single(_lstm_step),
    torch.gru_cell: _single(_gru_step),
    torch.rnn_tanh_cell: _single(_tanh_step),
    torch.rnn_relu_cell: _single(_relu_step),
}
