"""What the functions of a user's problem return on a few examples, and whether it is what they must return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deepobs_func.backend.generators import kept
from deepobs_func.base import Batch, Inputs, Params, inputs_by_name, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.problems.watch import watched


class Found(NamedTuple):
    """What the functions returned for one batch; `correct` is None where there is none."""

    outputs: Any
    losses: Tensor
    correct: Tensor | None


@dataclass(frozen=True)
class Functions:
    """The functions of a problem, called one after the other at one point."""

    problem: Problem
    params: Params

    def called(self, batch: Batch) -> Found:
        """What each function returns, after a check of that and of its side effects."""
        problem, params = self.problem, self.params
        inputs = {f"inputs x {name}".rstrip(): leaf for name, leaf in inputs_by_name(batch.x).items()}
        data = {**inputs, "targets y": batch.y}
        moments = batch.state.moments
        outputs = self._called("module", lambda: problem.outputs(params, batch), batch, {**data, **params, **moments})
        leaves = {f"outputs {index}": leaf for index, leaf in enumerate(leaves_of(outputs))}
        self._check_outputs(list(leaves.values()), batch)
        given = {**data, **leaves, **moments}
        losses = self._called("criterion", lambda: problem.criterion(outputs, batch), batch, given)
        _check_losses(losses, list(leaves.values()), batch)
        right, correct = problem.measure.correct, None
        if right is not None:
            correct = self._called("correct function", lambda: right(outputs, batch), batch, given)
            _check_correct(correct, size_of(batch))
        return Found(outputs, losses, correct)

    def _called(self, who: str, function: Callable[[], Any], batch: Batch, given: Tensors) -> Any:
        net = self.problem.net if who == "module" else None
        try:
            return watched(who, function, given, self.params, net)
        except ConfigError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            data = " and ".join(f"{what} are {_seen(t)}" for what, t in (("inputs", batch.x), ("targets", batch.y)))
            where = "" if net is None else raised_in(net, function)
            raise ConfigError(
                f"The module and its criterion do not fit {self.problem.dataset.title}, whose {data} for a batch of "
                f"{size_of(batch)}: the {who} raised {said(error)[:-1]}{where}. "
                f"{_mend(who, _widest(self.problem, batch), error)}"
            ) from error

    def _check_outputs(self, leaves: list[Tensor], batch: Batch) -> None:
        if any(leaf.requires_grad for leaf in leaves):
            raise ConfigError(
                "The module computes with tensors that require gradients and are none of its parameters, so nothing "
                "would train them. Register them: as an nn.Parameter attribute, in an nn.ParameterList, or with "
                "register_buffer where they are constants."
            )
        if not leaves:
            raise ConfigError("The module returned no tensor; a criterion needs outputs with a leading B.")
        if all(_is_finite(leaf) for leaf in leaves):
            return
        wrong = [
            name for name, tensor in (*self.params.items(), *batch.state.moments.items()) if not _is_finite(tensor)
        ]
        raise ConfigError(
            f"The module's outputs are not finite for {size_of(batch)} examples of {self.problem.dataset.title}"
            + (f": {wrong} hold NaN or infinite values. Initialise them." if wrong else ", at its own parameters.")
        )


def _check_losses(losses: Any, outputs: list[Tensor], batch: Batch) -> None:
    size = size_of(batch)
    must = f"it must return a tensor of one loss for each example, ({size},), of floating-point numbers"
    if not isinstance(losses, Tensor):
        raise ConfigError(f"The criterion returned {_kind(losses)}; {must}.")
    if losses.shape != (size,):
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in outputs)
        raise ConfigError(
            f"The criterion returned the shape {tuple(losses.shape)} for a batch of {size}; {must}. With torch's "
            f"losses pass reduction='none', and sum or average over all axes but the first. Outputs {shapes} and "
            f"targets {tuple(batch.y.shape)} of different shapes are broadcast: nn.Flatten(0) as the last layer, "
            "or targets y[:, None], make them one."
        )
    if not losses.is_floating_point():
        raise ConfigError(f"The criterion returned numbers of the type {losses.dtype}; {must}.")
    if losses.requires_grad:
        raise ConfigError(
            "The criterion computes with tensors that require gradients, which nothing would train. Hold them as "
            "parameters of the module and return them with its outputs, or detach them."
        )
    if not _is_finite(losses):
        raise ConfigError(
            f"The criterion returned {losses.tolist()} for finite outputs of {size} examples, at the module's own "
            "parameters. A loss must be finite where a run starts."
        )


def _check_correct(correct: Any, size: int) -> None:
    must = f"it must return a tensor of one value in [0, 1] for each example, ({size},), truth values or numbers"
    if not isinstance(correct, Tensor):
        raise ConfigError(f"The function correct returned {_kind(correct)}; {must}.")
    if correct.shape != (size,):
        raise ConfigError(
            f"The function correct returned the shape {tuple(correct.shape)} for a batch of {size}; {must}. Take no "
            "mean over the examples, as in outputs.argmax(1) == y; where an example has several predictions, average "
            "over them, as in (outputs.argmax(-1) == y).float().mean(1)."
        )
    if correct.is_complex() or not bool(((correct >= 0) & (correct <= 1)).all()):
        raise ConfigError(f"The function correct returned {correct.tolist()}; {must}.")


def _mend(who: str, batch: Batch, error: Exception) -> str:
    """What to try, by what was given."""
    if who == "module":
        return _mend_module(batch.x, error)
    data = batch.y
    if _is_whole(data) and _is_beyond(error) and data.numel():
        return (
            f"The targets of both splits hold ids from {data.min()} to {data.max()}, which need {data.max() + 1} "
            "outputs; change the module or these ids."
        )
    if data.ndim == 2 and data.shape[1] == 1:
        return "Where it takes targets (B,), give y[:, 0]."
    if _is_whole(data):
        return "Targets that are no class ids must be floating-point numbers: y.astype('float32')."
    return "Class ids must be whole numbers, (B,): y.astype('int64')."


def _widest(problem: Problem, batch: Batch) -> Batch:
    """With the examples of the smallest and the largest ids of both splits, where they are known."""
    spec = problem.dataset
    if not spec.extremes:
        return batch
    more = spec.function("extremes")(spec, torch.get_default_dtype())
    x, y = pytree.tree_map(lambda *parts: torch.cat(parts), (batch.x, batch.y), more)
    return Batch(x, y, batch.noise, batch.state)


def _mend_module(x: Inputs, error: Exception) -> str:
    """The same where the module raised; of several inputs, nobody knows which one it was."""
    if _is_of_arguments(error):
        return _mend_arguments(x)
    whole = {name: leaf for name, leaf in inputs_by_name(x).items() if _is_whole(leaf) and leaf.numel()}
    words = str(error)
    if whole and _is_beyond(error):
        ranges = [f"{name} from {leaf.min()} to {leaf.max()}".strip() for name, leaf in whole.items()]
        rows = " and ".join(f"{leaf.max() + 1}" for leaf in whole.values())
        return (
            f"The inputs of both splits hold ids {', '.join(ranges)}, which need {rows} rows of an embedding; change "
            "the module or these ids."
        )
    if "Long, Int" in words or "used as indices" in words:
        return "Give ids as whole numbers: x.astype('int64')."
    if any(word in words for word in ("type", "not implemented for", "Half", "Double", "device")):
        if whole:
            return "Whole numbers reach the module as they are; give images as floats: x.astype('float32') / 255."
        return "A run is in float32: constants of the module go with it where they are buffers (register_buffer)."
    return "The module gets the inputs with the axis of the examples in front; let its layers fit their shape."


def _is_beyond(error: Exception) -> bool:
    """Whether an id has no row; an axis that a tensor does not have is another fault."""
    words = str(error)
    return "Dimension" not in words and any(part in words for part in ("out of bounds", "index out of range"))


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _is_of_arguments(error: Exception) -> bool:
    """Whether a call did not fit the signature of `forward`."""
    return isinstance(error, TypeError) and " argument" in str(error) and "()" in str(error)


def _mend_arguments(x: Inputs) -> str:
    names = list(inputs_by_name(x))
    given = f"by the keywords {names}" if isinstance(x, dict) else f"as {len(names)} positional argument(s)"
    return (
        f"The inputs are given {given}: a tuple of inputs becomes positional arguments of forward, a dict becomes "
        "keywords. Give the data set as many, under the names that forward has."
    )


def raised_in(net: nn.Module, function: Callable[[], Any]) -> str:
    """The innermost layer in whose call a function raises, for a message; nothing of the module itself."""
    entered: list[tuple[str, nn.Module]] = []
    hooks = []
    for path, part in net.named_modules():
        hooks.append(part.register_forward_pre_hook(lambda part, *_, path=path: entered.append((path, part))))
        hooks.append(part.register_forward_hook(lambda *_: entered.pop() and None))
    try:
        with kept():
            function()
    except Exception:  # which has been raised before
        path, part = entered[-1] if entered else ("", net)
        return f" in the layer {path!r} ({type(part).__name__})" if path else ""
    finally:
        for hook in hooks:
            hook.remove()
    return ""


def said(error: Exception) -> str:
    """The first line of an error as a sentence; the whole of it is its cause."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0].rstrip('.!: ')}."


def leaves_of(outputs: Any) -> list[Tensor]:
    """The tensors of a pytree of outputs, in order."""
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def is_close(a: Tensor, b: Tensor) -> bool:
    """Whether a and b have one shape and agree up to rounding; NaN agrees with NaN."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True)


def _seen(x: Inputs) -> str:
    if isinstance(x, Tensor):
        return f"{tuple(x.shape)} {x.dtype}"
    return ", ".join(f"{name}: {_seen(leaf)}" for name, leaf in inputs_by_name(x).items())


def _kind(value: Any) -> str:
    return f"{value!r}" if isinstance(value, bool | int | float | None) else f"an object of {type(value).__name__}"


def _is_finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(tensor.isfinite().all())
