"""Every kind of layer that is converted, and the conversion of a module by this table."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn
from torch.nn.modules import batchnorm, instancenorm, rnn
from torch.nn.utils import parametrizations

from deepobs_func.nets.layers import name_layers
from deepobs_func.problems.conversion import attention, draws, norms, recurrent, weights
from deepobs_func.problems.conversion.base import Conversion, Converted, joined

SAME = "the same layer"
OF_EXAMPLE = "of the example's loss, by input and output gradient"
WITH_MASK = "with the example's own mask"
OF_RUNNING = "see `bn=`: coupled, frozen (the batch's statistics as constants) or eval (the running ones)"

TABLE: tuple[Conversion, ...] = (
    Conversion(
        batchnorm._BatchNorm,
        norms.BatchNorm,
        "state",
        "running statistics and their count in `batch.state`, out of `loss_and_state`",
        OF_RUNNING,
    ),
    Conversion(nn.SyncBatchNorm, norms.BatchNorm, "state", "batch norm of the batch of one process", OF_RUNNING),
    Conversion(
        instancenorm._InstanceNorm,
        norms.InstanceNorm,
        "state",
        "by the example's statistics; running ones, where kept, as of batch norm",
        "of the example's loss: no example enters another's",
    ),
    Conversion(nn.Dropout, draws.Dropping, "noise", "a keep-mask of the shape of its input", WITH_MASK),
    *(
        Conversion(kind, functional, "noise", f"a keep-mask of `(B, C, 1, ...)`{more}", WITH_MASK)
        for kind, functional, more in (
            (nn.Dropout1d, draws.DroppingSignals, "; of `(B, 1)` for an input `(B, F)`, as torch has it"),
            (nn.Dropout2d, draws.DroppingChannels, ""),
            (nn.Dropout3d, draws.DroppingVolumes, "; of `(B, 1, 1, 1)` for an input `(B, C, H, W)`, as torch has it"),
        )
    ),
    Conversion(nn.AlphaDropout, draws.DroppingAlpha, "noise", "a keep-mask of the shape of its input", WITH_MASK),
    Conversion(
        nn.FeatureAlphaDropout, draws.DroppingAlphaChannels, "noise", "a keep-mask of `(B, C, 1, ...)`", WITH_MASK
    ),
    Conversion(
        "torchvision.ops.stochastic_depth.StochasticDepth",
        draws.DroppingBranches,
        "noise",
        "a keep-mask of the examples, or one of the batch where `mode='batch'`",
        WITH_MASK,
    ),
    Conversion(
        nn.RReLU, draws.RandomSlopes, "noise", "a uniform draw of the shape of its input", "with its own slopes"
    ),
    *(
        Conversion(
            kind,
            recurrent.Recurrent,
            "recurrent",
            "the kernel for the plain gradient, step by step for more; dropout between its layers as keep-masks",
            "of the example's loss over all its steps",
        )
        for kind in (rnn.LSTM, rnn.GRU, rnn.RNN)
    ),
    Conversion(
        nn.MultiheadAttention,
        attention.MultiheadAttention,
        "attention",
        "the kernel where nothing is dropped, the formula for derivatives of second order and in forward mode; dropout "
        "of its weights as a keep-mask `(B, heads, T, S)`; a query of which all keys are hidden has finite values "
        "where torch may have NaN",
        "of the example's loss; of self-attention's projections by input and output gradient",
    ),
    Conversion(
        nn.TransformerEncoderLayer, attention.EncoderLayer, "attention", "without its fast path", "of its parts"
    ),
    Conversion(nn.TransformerEncoder, attention.Encoder, "attention", "without nested tensors", "of its parts"),
    Conversion(nn.TransformerDecoder, attention.Decoder, "attention", SAME, "of its parts"),
    Conversion(
        parametrizations._SpectralNorm,
        norms.SpectralNorm,
        "state",
        "one power iteration a pass, its vectors in `batch.state`",
        "at the vectors after the pass's iteration, as constants",
    ),
    *(
        Conversion(stock, functional, "pure", SAME, OF_EXAMPLE)
        for stock, functional in (
            (nn.Linear, weights.Linear),
            (nn.Conv1d, weights.Conv),
            (nn.Conv2d, weights.Conv),
            (nn.Conv3d, weights.Conv),
            (nn.ConvTranspose2d, weights.ConvTranspose2d),
            (nn.Embedding, weights.Embedding),
            (nn.LayerNorm, norms.LayerNorm),
            (nn.RMSNorm, norms.RMSNorm),
            (nn.GroupNorm, norms.GroupNorm),
        )
    ),
)
"""The kinds of layers, each at most once. A layer of no kind computes what it did, and is refused where that draws or
remembers."""

PURE = tuple({row.functional for row in TABLE if row.semantics == "pure"})

HOOKS = ("draw_noise", "forward_with_noise")  # by which a module of the user's declares its draw


def convert(net: nn.Module) -> nn.Module:
    """Converts a module in place: a copy of the user's, on meta.

    Args:
        net: its layers that the table has get another class and stay the objects that they are.

    Returns:
        The module.
    """
    held = Counter(id(leaf) for module in net.modules() for leaf in module._parameters.values() if leaf is not None)
    for module in list(net.modules()):
        functional = _functional(module)
        if functional is None:
            continue
        module.__class__ = joined(functional, type(module))  # type: ignore[arg-type]  # classes have a hash
        converted: Any = module
        own = module.named_parameters(recurse=False)
        converted.taken = tuple(name for name, leaf in own if leaf.requires_grad and held[id(leaf)] == 1)
        converted.places, converted.constants, converted.carried, converted.initializers = {}, set(), {}, {}
        converted.adapt()
    return name_layers(net)


def _functional(module: nn.Module) -> type[Converted] | None:
    """What a module's class is joined with."""
    if all(hasattr(type(module), hook) for hook in HOOKS):
        return draws.Declared
    return next((row.functional for row in TABLE if row.fits(module)), None)
