"""A character-level transformer that sees what came before."""

from __future__ import annotations

import math

from torch import Tensor, nn

from deepobs_func.nets.initializers import normal
from deepobs_func.nets.layers import Dense, Pass
from deepobs_func.nets.noise import Dropout
from deepobs_func.nets.norms import LayerNorm
from deepobs_func.nets.rnn import Embedding
from deepobs_func.nets.transformer import Block, Positions


class GPT(nn.Module):
    """Character ids `(B, T)` -> logits `(B, T, vocabulary)`.

    GPT-2, small: blocks of causal attention that are normalised before each branch. Initial distribution: a normal of
    0.02, for the last kernel of each branch divided by `sqrt(2 blocks)`. Dropout follows the embedding and each branch;
    attention's weights are not dropped, so that torch's kernel serves the plain gradient. The last layer has a weight
    of its own, where GPT-2 takes that of the embedding.

    Args:
        vocabulary: symbols.
        length: T, exactly; another length is refused.
        blocks, width, heads: of the transformer.
        rate: of dropout.

    Raises:
        ConfigError: (from `forward`) the text has another length.

    Source: Radford et al., "Language models are unsupervised multitask learners", 2019.
    """

    in_blocks = True

    def __init__(self, vocabulary: int, length: int, blocks: int, width: int, heads: int, rate: float) -> None:
        super().__init__()
        weight, last = normal(0.02), normal(0.02 / math.sqrt(2 * blocks))
        self.embedding = Embedding(vocabulary, width, weight)
        self.positions = Positions(length, width, weight)
        self.dropout = Dropout(rate, (length, width))
        self.blocks = nn.ModuleList(
            Block(length, width, heads, causal=True, weight=weight, last=last, rate=rate, epsilon=1e-5)
            for _ in range(blocks)
        )
        self.norm = LayerNorm(width, 1e-5)
        self.dense = Dense(width, vocabulary, weight)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = self.dropout(self.positions(self.embedding(x, p), p), p)  # (B, T, width)
        for block in self.blocks:
            x = p.through(block, x)
        return self.dense(self.norm(x, p), p)
