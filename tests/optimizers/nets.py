"""A small net with a convolution and a dense layer, and its curvature by explicit Jacobians."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from deepobs_func import datasets, problems
from deepobs_func.problems.measures import cross_entropy

SHAPE, CLASSES, BATCH = (2, 4, 4), 3, 6


def net():
    return nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES))


def data(size=20, seed=0):
    draw = np.random.RandomState(seed)
    return draw.normal(size=(size, *SHAPE)).astype(np.float32), draw.randint(0, CLASSES, size)


def make_problem(module=None, name="conv_and_dense", measure=cross_entropy):
    """Cross entropy of three classes, without a penalty."""
    torch.manual_seed(0)
    made = problems.from_module(
        module or net(),
        partial(F.cross_entropy, reduction="none"),
        datasets.from_arrays(name, data(), data()),
        epochs=1,
        batch_size=BATCH,
        name=name,
    )
    return replace(made, measure=measure)


def logits_from(params, example, leave=lambda name, value: value):
    """The net of one example written out; `leave` sees what each layer puts out, and may put something in its place."""
    kernel, bias = params["0.weight"].reshape(3, 8), params["0.bias"]
    patches = example.unfold(1, 2, 2).unfold(2, 2, 2).permute(0, 3, 4, 1, 2).reshape(8, 4)
    first = leave("0", kernel @ patches + bias.unsqueeze(1))
    hidden = torch.tanh(first).reshape(-1)
    second = leave("3", (params["3.weight"] @ hidden + params["3.bias"]).unsqueeze(1))
    return second.squeeze(1), {"0": patches, "3": hidden.detach().unsqueeze(1)}


def criterion_hessian(logits):
    p = logits.softmax(0)
    return torch.diag(p) - torch.outer(p, p)


def explicit(params, x):
    """For each layer's weight: R, C, and the mean of `J_n^T H_n J_n` in the weight and in the bias."""
    found = {path: [0.0, 0.0, 0.0, 0.0] for path in ("0", "3")}
    for example in x:
        outputs = {}
        logits, inputs = logits_from(params, example, lambda name, value, seen=outputs: seen.setdefault(name, value))
        hessian = criterion_hessian(logits)
        for path, (r, c, f, b) in found.items():

            def from_output(z, path=path, example=example):
                return logits_from(params, example, lambda name, value: z if name == path else value)[0]

            jacobian = torch.autograd.functional.jacobian(from_output, outputs[path])  # (classes, m, T)
            a = inputs[path]
            r = r + torch.einsum("imt,ij,jnt->mn", jacobian, hessian, jacobian)
            c = c + a @ a.T / a.shape[1]
            in_weight = torch.einsum("imt,nt->imn", jacobian, a).flatten(1)
            f = f + in_weight.T @ hessian @ in_weight
            in_bias = jacobian.sum(2)
            found[path] = [r, c, f, b + in_bias.T @ hessian @ in_bias]
    return {path: [part / len(x) for part in parts] for path, parts in found.items()}
