"""Layers of the nets: stateless modules on the `meta` device, with TensorFlow's padding and initial distributions.

A module holds no data. Its parameters and buffers arrive through `torch.func.functional_call`; everything else that a
forward pass needs or produces travels in a `Pass`. Layers that hide state or randomness in their stock version
(dropout, batch norm), or pad differently from TensorFlow's `SAME`, are written out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.backend import onednn
from deepobs_func.backend.ranks import Ranks, Summed
from deepobs_func.base import Outer
from deepobs_func.nets.images import pad_fully, pad_same
from deepobs_func.nets.initializers import Initializer, constant, glorot_uniform
from deepobs_func.nets.patches import Patches, of_groups
from deepobs_func.nets.recompute import recomputed

ZEROS = constant(0.0)


@dataclass
class Pass:
    """One forward pass through a net.

    Attributes:
        train: training phase, or test phase.
        noise: the draws of this batch by the path of the layer that reads them; a missing one is neutral.
        fused: whether layers may use fused kernels, which serve the plain gradient only: no `vmap`, no second
            derivative, no forward mode.
        onednn: whether, with fused kernels, products of matrices are computed by oneDNN (`backend.onednn`).
        by_moments: whether batch norm normalises with its moments in the training phase too, so that it couples no
            examples and moves no moments.
        tap: `(layer, input, output) -> output`, called by every layer that knows its per-example gradients
            (`Layer.factors`); None where nobody listens.
        ranks: the processes of whose shards batch norm takes the statistics; None for this one's alone.
        recompute: whether blocks of the net keep their input alone and are computed anew in the backward pass, as
            `through` has it.
        shared: whether a net whose output is the same for all examples may return it once, without their axis, as the
            measure of its problem takes it: nothing but the losses reads it.
        moments: what layers write down to replace `ModelState.moments`, by buffer name.
        batch_moments: the mean and the biased variance of this batch, by the same names.
        carry_in, carry: recurrent state before and after the pass.
        calls: how often each place has drawn so far, or each batch norm of a user's normalised, by its name.
        drawn: what is drawn at each place, for whoever listens; None where nobody does.
    """

    train: bool
    noise: dict[str, Tensor]
    carry_in: dict[str, Tensor]
    fused: bool = False
    onednn: bool = False
    by_moments: bool = False
    tap: Callable[[Layer, Tensor, Tensor], Tensor] | None = None
    shared: bool = False
    ranks: Ranks | None = None
    recompute: bool = False
    moments: dict[str, Tensor] = field(default_factory=dict)
    batch_moments: dict[str, Tensor] = field(default_factory=dict)
    carry: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    drawn: dict[str, Any] | None = None

    def tapped(self, layer: Layer, x: Tensor | Callable[[], Tensor], y: Tensor) -> Tensor:
        """Shows a layer's input and output to the tap; an input that costs something is given as a function."""
        if self.tap is None:
            return y
        return self.tap(layer, x() if callable(x) else x, y)

    def through(self, block: nn.Module, x: Tensor) -> Tensor:
        """The output of a block, a module of a net whose tensors no other part of it reads."""
        found: Tensor = recomputed(block, x, self) if self.recompute else block(x, self)
        return found


class Layer(nn.Module):
    """A module that declares its tensors: shape and initial distribution, no data.

    Attributes:
        initializers: the initial distribution of each of its own parameters and buffers.
        constants: the names of buffers that are part of the problem, not a variable of the reference.
        carried: the shapes of the recurrent state that it reads and writes, one example's, by name.
        path: the dotted name of the layer in its net, set by `name_layers`.
        normalizes: whether it is batch norm: couples the examples of a batch, which its moments take apart.
        foreign: whether it is a layer of a user's module, whose code may change its output in place.
        tensorflow_axes: for each parameter that TensorFlow lays out differently, which of TensorFlow's axes becomes
            each of ours.
    """

    path: str = ""
    normalizes: bool = False
    foreign: bool = False
    tensorflow_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.initializers: dict[str, Initializer] = {}
        self.constants: set[str] = set()
        self.carried: dict[str, tuple[int, ...]] = {}

    @property
    def known(self) -> tuple[str, ...]:
        """The names of its own parameters whose per-example gradients `factors` gives."""
        return tuple(self.initializers)

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        """The per-example gradients of its parameters: as factors, or, where they are small, `(B, *shape)`.

        Args:
            x: the input that it showed to `Pass.tapped`.
            g: the gradient of each example's loss by its output.
        """
        raise NotImplementedError  # only of layers that call `Pass.tapped`

    def stock(self) -> nn.Module | None:
        """Torch's own layer of the same function and parameter names, on the meta device; None where there is none.

        For libraries that know layers by their class.
        """
        return None

    def declare(self, name: str, shape: Sequence[int], initializer: Initializer) -> None:
        """Declares a trainable parameter."""
        self.register_parameter(name, nn.Parameter(torch.empty(tuple(shape), device="meta")))
        self.initializers[name] = initializer

    def declare_moment(self, name: str, shape: Sequence[int], initializer: Initializer) -> None:
        """Declares a tensor of `ModelState.moments`, which training changes."""
        self.register_buffer(name, torch.empty(tuple(shape), device="meta"))
        self.initializers[name] = initializer

    def declare_constant(self, name: str, shape: Sequence[int], initializer: Initializer) -> None:
        """Declares a tensor of `ModelState.moments` that never changes."""
        self.declare_moment(name, shape, initializer)
        self.constants.add(name)


def name_layers(net: nn.Module) -> nn.Module:
    """Tells every layer its dotted name, under which it finds its noise and writes its moments."""
    for path, module in net.named_modules():
        if isinstance(module, Layer):
            module.path = path
    return net


class Dense(Layer):
    """`x W^T + b`. Parameters `weight (outputs, inputs)` and `bias (outputs,)`."""

    weight: Tensor
    bias: Tensor
    tensorflow_axes: ClassVar = {"weight": (1, 0)}

    def __init__(
        self, inputs: int, outputs: int, weight: Initializer | None = None, bias: Initializer | None = None
    ) -> None:
        super().__init__()
        self.declare("weight", (outputs, inputs), weight or glorot_uniform())
        self.declare("bias", (outputs,), bias or ZEROS)

    def stock(self) -> nn.Linear:
        outputs, inputs = self.weight.shape
        return nn.Linear(inputs, outputs, device="meta")

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        by_blas = F.linear if p.train else onednn.turned
        product = (onednn.linear if p.onednn else by_blas) if p.fused else F.linear
        return p.tapped(self, x, product(x, self.weight, self.bias))

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        g = positions_last(g)
        return {"weight": Outer(g, positions_last(x)), "bias": g.sum(2)}


def positions_last(x: Tensor) -> Tensor:
    """`(B, ..., features)` -> `(B, features, T)`, T being the product of what lies between."""
    return x.flatten(1, -2).mT if x.ndim > 2 else x.unsqueeze(-1)


class Conv(Layer):
    """A convolution. Parameters `weight (outputs, inputs, *kernel)` and, unless it has none, `bias (outputs,)`.

    Args:
        inputs, outputs: channels.
        kernel: its extent, or `(height, width)`.
        stride: in both directions.
        padding: TensorFlow's `"same"` or `"valid"`, or so many zeros on each side, as torch has it.
        groups: into how many parts the channels are cut, each of which sees itself alone; `inputs` of them make a
            depthwise convolution. The weight is `(outputs, inputs / groups, *kernel)`.
        weight: the initial distribution of the kernel; Glorot's uniform by default.
        bias: that of the bias; None for a convolution without one.
    """

    weight: Tensor
    bias: Tensor | None
    tensorflow_axes: ClassVar = {"weight": (3, 2, 0, 1)}

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        *,
        padding: Literal["same", "valid"] | int = "same",
        groups: int = 1,
        weight: Initializer | None = None,
        bias: Initializer | None = ZEROS,
    ) -> None:
        super().__init__()
        self.kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        self.stride, self.padding, self.groups = stride, padding, groups
        self.declare("weight", (outputs, inputs // groups, *self.kernel), weight or glorot_uniform())
        if bias is None:
            self.register_parameter("bias", None)
        else:
            self.declare("bias", (outputs,), bias)

    def stock(self) -> nn.Conv2d:
        """`nn.Conv2d`; TensorFlow's padding comes from a hook, before those of a library look at the input."""
        outputs, inputs = self.weight.shape[:2]
        padding = self.padding if isinstance(self.padding, int) else 0
        how: dict[str, Any] = {"groups": self.groups, "bias": self.bias is not None, "device": "meta"}
        layer = nn.Conv2d(inputs * self.groups, outputs, self.kernel, self.stride, padding, **how)
        if self.padding == "same":
            layer.register_forward_pre_hook(lambda _, arguments: (pad_fully(arguments[0], self.kernel, self.stride),))
        return layer

    def forward(self, x: Tensor, p: Pass) -> Tensor:  # (B, inputs, H, W) -> (B, outputs, ceil(H/s), ceil(W/s)): same
        padded, padding = self._padded(x)
        y = F.conv2d(padded, self.weight, self.bias, stride=self.stride, padding=padding, groups=self.groups)
        return p.tapped(self, x, y)

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        x, padding = self._padded(x)
        if self.groups == 1:
            weight: Outer | Tensor = Patches(g, x, self.kernel, self.stride, padding)
        else:
            weight = of_groups(x, g, self.weight.shape, self.stride, padding, groups=self.groups)
        return {"weight": weight} if self.bias is None else {"weight": weight, "bias": g.sum((2, 3))}

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if isinstance(self.padding, int):
            return x, (self.padding, self.padding)
        return pad_same(x, self.kernel, self.stride) if self.padding == "same" else (x, (0, 0))


class ConvTranspose(Layer):
    """A square transposed convolution with `SAME` padding: `(B, inputs, H, W) -> (B, outputs, s H, s W)`.

    The full transposed convolution is cropped by `kernel - stride` in all, of which half (rounded down) at the top
    and left. Parameters `weight (inputs, outputs, k, k)` and `bias (outputs,)`.
    """

    weight: Tensor
    bias: Tensor
    tensorflow_axes: ClassVar = {"weight": (3, 2, 0, 1)}

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.declare("weight", (inputs, outputs, kernel, kernel), glorot_uniform())
        self.declare("bias", (outputs,), ZEROS)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        height, width = x.shape[-2] * self.stride, x.shape[-1] * self.stride
        full = F.conv_transpose2d(x, self.weight, self.bias, stride=self.stride, padding=self._crop)
        return p.tapped(self, x, full[..., :height, :width])

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        odd = (self.kernel - self.stride) % 2  # what `forward` cut off at the bottom and right
        full, kernel, crop = F.pad(g, (0, odd, 0, odd)), (self.kernel, self.kernel), (self._crop, self._crop)
        return {"weight": Patches(x, full, kernel, self.stride, crop), "bias": g.sum((2, 3))}  # a convolution's, turned

    @property
    def _crop(self) -> int:
        return (self.kernel - self.stride) // 2


class BatchNorm(Layer):
    """Batch normalisation over all axes but the channels, `(B, C, H, W)`.

    Training phase: with the mean and the biased variance of the batch, which couples its examples; the moving moments
    become `momentum old + (1 - momentum) batch`, of the unbiased variance, and go into the `Pass`. Test phase: with the
    moving moments. Parameters `weight`, `bias (C,)` (gamma, beta); moments `mean`, `variance (C,)`.

    Args:
        channels: C.
        momentum: TensorFlow's, one minus torch's.
        epsilon: added to the variance.

    Source: TensorFlow's fused batch normalisation.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    normalizes = True

    def __init__(self, channels: int, momentum: float, epsilon: float) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.declare("weight", (channels,), constant(1.0))
        self.declare("bias", (channels,), ZEROS)
        self.declare_moment("mean", (channels,), ZEROS)
        self.declare_moment("variance", (channels,), constant(1.0))

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = x.to(self.weight.dtype)  # statistics of a half-precision input would be rounded to it
        by_batch = p.train and not p.by_moments
        if p.fused and p.tap is None and not (by_batch and p.ranks):
            return self._fused(x, p)
        mean, variance = self.mean, self.variance
        if by_batch:
            variance, mean, processes = *_var_mean(x, p.ranks), p.ranks.size if p.ranks else 1
            self._write(p, processes * (x.numel() // x.shape[1]), mean.detach(), variance.detach())
        inverse = torch.rsqrt(variance + self.epsilon)
        # Not `x scale + (bias - mean scale)`, whose terms cancel where a mean is large beside the deviation.
        y = (x - mean.view(-1, 1, 1)) * (self.weight * inverse).view(-1, 1, 1) + self.bias.view(-1, 1, 1)
        return p.tapped(self, lambda: (x - mean.view(-1, 1, 1)) * inverse.view(-1, 1, 1), y)

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"weight": (g * x).sum((2, 3)), "bias": g.sum((2, 3))}  # x is the normalised input

    def _fused(self, x: Tensor, p: Pass) -> Tensor:
        """The same by torch's own kernel, which moves the moments that it is given."""
        mean, variance, by_batch = self.mean, self.variance, p.train and not p.by_moments
        if by_batch:
            mean, variance = mean.clone(), variance.clone()
            p.moments |= {f"{self.path}.mean": mean, f"{self.path}.variance": variance}
        return F.batch_norm(x, mean, variance, self.weight, self.bias, by_batch, 1 - self.momentum, self.epsilon)

    def _write(self, p: Pass, count: int, mean: Tensor, variance: Tensor) -> None:
        """The moving moments after this batch; `count` values a channel."""
        unbiased = variance * (count / max(count - 1, 1))
        for name, old, new in (("mean", self.mean, mean), ("variance", self.variance, unbiased)):
            p.moments[f"{self.path}.{name}"] = self.momentum * old + (1 - self.momentum) * new
        p.batch_moments |= {f"{self.path}.mean": mean, f"{self.path}.variance": variance}


def _var_mean(x: Tensor, ranks: Ranks | None) -> tuple[Tensor, Tensor]:
    """The biased variance and the mean of each channel, over the shards of all processes, if there are several."""
    if ranks is None:
        return torch.var_mean(x, dim=(0, 2, 3), correction=0)
    mean = Summed.apply(x.mean((0, 2, 3))) / ranks.size
    return Summed.apply((x - mean.view(-1, 1, 1)).square().mean((0, 2, 3))) / ranks.size, mean
