"""The operations of torch that a loss may go through without an examination: their derivatives are right in every mode.

Names are those of autograd's nodes. The sweep over torch.nn's layers (tests/probes/test_torch_layers.py) goes through
each of them and compares with finite differences. Operations that `probes.formulas` replaces are not among them; the
operations that its formulas consist of are.
"""

from __future__ import annotations

_FIRST = (
    "Abs AdaptiveAvgPool2D AdaptiveMaxPool2D Add Addcmul Addmm Amax Atan AvgPool2D AvgPool3D Baddbmm "
    "BinaryCrossEntropy BinaryCrossEntropyWithLogits Bmm Cat Celu ChannelShuffle ClampMin Clone Col2Im "
    "ConstantPadNd Convolution Cos Cumsum Div Elu Embedding Erf Exp Expand Expm1 Flip Gather Gelu Hardshrink "
    "Hardswish Hardtanh Im2Col Index IndexSelect LeakyRelu Lerp LinalgMatrixExp LinalgVectorNorm Log Log1P "
    "LogSigmoid LogSoftmax Logaddexp Logsumexp MaskedFill Max MaxPool2DWithIndices MaxPool3DWithIndices MaxUnpool2D "
    "Maximum Mean Min Mish Mm MseLoss Mul Mv Neg NllLoss Permute PixelShuffle PixelUnshuffle Pow PreluKernel "
    "Reciprocal ReflectionPad2D Relu Repeat ReplicationPad2D ReshapeAlias Roll Rsqrt "
    "Select Sigmoid Sign Silu Sin Sinh Slice SmoothL1Loss Softmax Softplus Softshrink Sort Split SplitWithSizes "
    "Sqrt Stack Std Sub T Tanh Threshold Topk Transpose Tril Trilinear Triu Unbind Unfold UnsafeView Unsqueeze "
    "UpsampleBicubic2D UpsampleBilinear2D UpsampleNearest2D Var VarMean Vdot View Where "
)  # named ...Backward0: the only form of the operation, or its first
_OTHERS = (
    "AddBackward1 ClampBackward1 MeanBackward1 MedianBackward1 NormBackward1 PowBackward2 "
    "SqueezeBackward1 SumBackward1 torch::autograd::AccumulateGrad "
)

RIGHT: frozenset[str] = frozenset([*(f"{name}Backward0" for name in _FIRST.split()), *_OTHERS.split()])
"""The names of nodes whose operations are right by reverse over forward, forward over reverse, reverse over reverse,
in forward mode, and under `vmap`."""
