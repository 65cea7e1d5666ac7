"""A vision transformer on small images."""

from __future__ import annotations

from torch import Tensor, nn

from deepobs_func.nets.initializers import normal
from deepobs_func.nets.layers import Conv, Dense, Pass
from deepobs_func.nets.norms import LayerNorm
from deepobs_func.nets.transformer import Block, ClassToken, Positions


class VisionTransformer(nn.Module):
    """3x32x32 -> classes: patches of 4x4 as 64 tokens of 192, a class token, blocks of 3 heads, without dropout.

    Width, heads and initial distribution are those of DeiT-Ti, Touvron et al., ICML 2021; the patches of 4 on 32 pixels
    those of Hassani et al., arXiv:2104.05704. The distribution is a normal of 0.02: timm's `trunc_normal_(std=.02)`, by
    which DeiT draws, cuts at -2 and 2 and not at two deviations, so it cuts nothing.

    Args:
        blocks: how many.
        classes: of the dense layer.
        width: of a token.
        heads: of each attention.
    """

    in_blocks = True

    def __init__(self, blocks: int, classes: int, width: int = 192, heads: int = 3) -> None:
        super().__init__()
        weight, tokens = normal(0.02), (32 // 4) ** 2
        self.patches = Conv(3, width, 4, stride=4, padding="valid", weight=weight)
        self.token = ClassToken(width, weight)
        self.positions = Positions(1 + tokens, width, weight)
        self.blocks = nn.ModuleList(
            Block(1 + tokens, width, heads, causal=False, weight=weight, last=weight, rate=0.0, epsilon=1e-6)
            for _ in range(blocks)
        )
        self.norm = LayerNorm(width, 1e-6)
        self.dense = Dense(width, classes, weight)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = self.patches(x, p).flatten(2).mT  # (B, 64, width)
        x = self.positions(self.token(x, p), p)
        for block in self.blocks:
            x = p.through(block, x)
        return self.dense(self.norm(x[:, 0], p), p)
