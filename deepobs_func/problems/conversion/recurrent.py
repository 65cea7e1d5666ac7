"""Recurrent layers: dropout between their layers as masks of the batch.

Torch's kernel serves the plain gradient; where more is asked for, they are computed step by step (`probes.recurrent`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from deepobs_func.errors import ConfigError
from deepobs_func.probes.formulas import called
from deepobs_func.problems.conversion.base import Converted
from deepobs_func.problems.conversion.draws import drop, whole

KERNELS = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


class Recurrent(Converted):
    """`nn.LSTM`, `nn.GRU` and `nn.RNN`."""

    num_layers: int
    dropout: float

    def forward(self, input: Any, hx: Any = None) -> Any:
        """As of the stock layer.

        Raises:
            ConfigError: it drops between its layers, and is given a packed sequence.
        """
        if not (self.training and self.dropout and self.num_layers > 1):
            return super().forward(input, hx)
        if isinstance(input, PackedSequence):
            raise ConfigError(
                f"The layer {self.path!r} has dropout={self.dropout} between its layers and is given a packed "
                "sequence, whose masks have no fixed shape. Give it padded sequences, or dropout=0."
            )
        with _InTurn(self):
            return super().forward(input, hx)


class _InTurn(TorchFunctionMode):
    """Calls the kernel of several layers for one after the other, with a mask between each two."""

    def __init__(self, layer: Recurrent) -> None:
        super().__init__()
        self._layer = layer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in KERNELS:
            return called(func, args, kwargs or {})
        return self._layers(func, *args)

    def _layers(
        self,
        kernel: Any,
        x: Tensor,
        states: Any,
        weights: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        of_one, directions = len(weights) // num_layers, 2 if bidirectional else 1
        several = not isinstance(states, Tensor)
        parts = [part.split(directions) for part in (states if several else (states,))]
        last = []
        for index in range(num_layers):
            if index:
                x = drop(self._layer.path, x, dropout, whole, self._layer.places)
            first = [part[index] for part in parts]
            own = weights[index * of_one : (index + 1) * of_one]
            options = (has_biases, 1, 0.0, train, bidirectional, batch_first)
            x, *after = kernel(x, tuple(first) if several else first[0], own, *options)
            last.append(after)
        return x, *(torch.cat(each) for each in zip(*last, strict=True))
