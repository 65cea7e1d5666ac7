"""A test problem out of any `nn.Module`, so that users benchmark their own network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deepobs_func import datasets, random
from deepobs_func.base import Params
from deepobs_func.datasets.item_stream import Reader
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.datasets.stored import outside
from deepobs_func.errors import ConfigError
from deepobs_func.nets.ties import call_tied, names_of, places_of
from deepobs_func.problems import derivatives, purity
from deepobs_func.problems.conversion.confirming import check_masks, confirmed, taken_apart
from deepobs_func.problems.conversion.phases import SIZES, converted
from deepobs_func.problems.conversion.table import convert
from deepobs_func.problems.derivatives import EXAMPLES
from deepobs_func.problems.description import Tensors, on_meta
from deepobs_func.problems.factories import source_of
from deepobs_func.problems.measures import Measure
from deepobs_func.problems.modules import copied, held_tensors
from deepobs_func.problems.problem import Problem, kernels
from deepobs_func.problems.results import said
from deepobs_func.problems.spec import checked_weight_decay

OfOutputs = Callable[[Any, Tensor], Tensor]


def from_module(
    module: nn.Module | Callable[[], nn.Module],
    criterion: OfOutputs | Measure,
    dataset: str | DatasetSpec,
    *,
    correct: OfOutputs | None = None,
    weight_decay: float | None = None,
    regularize: Callable[[str, Tensor], bool] = kernels,
    epochs: int = 10,
    batch_size: int = 128,
    name: str | None = None,
) -> Problem:
    """Makes a test problem of any module and a per-example criterion.

    Of a function that makes modules, every run starts at values of its own: the function is called with the generators
    of torch, NumPy and Python seeded from the run's key. Of a module, every run starts at the module's own values,
    whatever its seed; the seed still decides the order of the data. The module is copied and its tensors are not
    changed. Parameters with `requires_grad=False` are constants of the problem, in its model state; floating-point
    tensors of any precision become those of the run, float32.

    The training phase is the module as it is given, part by part in `train()` or `eval()`; the test phase is the module
    in `eval()`. What draws in training reads its draw from `batch.noise`, what keeps running statistics reads and
    writes `batch.state`: the page "Layers" says what becomes of each layer.

    Every function is called on a few examples when the problem is made, so that an impure or unfitting one is found
    here.

    Args:
        module: maps inputs `(B, ...)` to outputs with a leading `B`; or a function without arguments that makes it,
            such as a class or a `functools.partial`.
        criterion: `(outputs, y) -> (B,)`, e.g. `partial(F.cross_entropy, reduction="none")`, or a module without
            parameters of its own to train; or a `Measure`, such as `problems.measures.cross_entropy`, which also says
            what a GGN and its samples need to know.
        dataset: the name of a data set, or one made by `datasets.from_arrays`.
        correct: `(outputs, y) -> (B,)` in [0, 1], where an accuracy is wanted; a `Measure` has its own.
        weight_decay: the factor of the L2 penalty, finite and at least 0; None for a problem without one.
        regularize: `(name, parameter) -> bool`, which trained parameters the penalty counts; by default those of rank
            2 and up. The parameter has a shape and no data.
        epochs, batch_size: the defaults of a run, at least 1.
        name: for the record; by default the class of the module, or the name of the function.

    Returns:
        The problem: a frozen value, which holds copies of the module's tensors.

    Raises:
        ConfigError: the function makes no module, or different ones under the same key; the data set and the measure
            name different ids that do not count (`ignore_index`), or targets are outside of the measure's range; the
            module, the criterion or `correct` does not fit the data (an id of no class in either split, another shape
            or type than the one that it must return, a result that is not finite); or the loss is no pure,
            differentiable function of the parameters, since one of them draws random numbers, changes what it is given
            or what it holds, or keeps what it computed. The message says which, and what to use instead.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    >>> problem = from_module(net, lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none"), "mnist")
    >>> problem.loss(problem.init(seed=0)[0], problem.fake_batch(4)).shape
    torch.Size([4])
    """
    if weight_decay is not None:
        checked_weight_decay(weight_decay)
    for field, value in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{field}= is a whole number of at least 1, not {value!r}.")
    spec = datasets.spec(dataset) if isinstance(dataset, str) else dataset
    if not isinstance(spec, DatasetSpec):
        raise ConfigError(
            f"dataset= is the name of a data set or a DatasetSpec, not {type(dataset).__name__}. Make one of arrays by "
            "datasets.from_arrays(name, (x, y), (x_test, y_test)), of a torch data set by datasets.from_torch."
        )
    _check_ignored(spec, criterion)
    spec = _check_targets(spec, criterion)
    source = source_of(module)
    _check_scripted(source.sample)
    _check_embeddings(source.sample)
    x = spec.function("fake")(spec, random.key(0), EXAMPLES, torch.get_default_dtype())[0]
    start = {name: leaf.to("cpu", _as_in(torch.get_default_dtype(), leaf)) for name, leaf in source.start.both.items()}
    described, call = converted(source.sample, start, x)
    again = convert(on_meta(source.sample))
    _check_regularize(regularize, described)

    def draw(net: nn.Module, key: random.Key, dtype: torch.dtype) -> tuple[Params, Tensors]:
        def fresh(tensors: Tensors) -> Tensors:
            return {name: tensor.to(key.device, _as_in(dtype, tensor), copy=True) for name, tensor in tensors.items()}

        drawn = source.draw(key)
        return fresh(drawn.params), fresh(drawn.constants)

    problem = Problem(
        name=name or source.name,
        dataset=spec,
        make_net=lambda: described,
        measure=_measure(criterion, correct),
        weight_decay=weight_decay,
        separable=True,
        epochs=epochs,
        batch_size=batch_size,
        draw=draw,
        call=call,
        regularize=regularize,
    )
    make_again = lambda: again
    other = replace(problem.description, net=again, of=(make_again, call, spec.shape))
    other_problem = replace(problem, make_net=make_again, description=other)
    separable = purity.check(problem, other_problem, held_tensors(source.sample))
    if call.failures:
        raise ConfigError(
            f"For batches of {SIZES[0]} and {SIZES[1]} examples, by which it is found what the module draws, it raised "
            f"{said(call.failures[0])} Let it take batches of any size."
        ) from call.failures[0]
    problem = replace(problem, separable=separable and not problem.normalizes)
    check_masks(problem)
    return confirmed(derivatives.chosen(taken_apart(problem)))


def _as_in(dtype: torch.dtype, tensor: Tensor) -> torch.dtype:
    """The type of a tensor in a problem whose floating-point numbers are of a given type."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def _measure(criterion: OfOutputs | Measure, correct: OfOutputs | None) -> Measure:
    if not isinstance(criterion, Measure):
        of_losses = _pure("criterion", criterion)
        of_correct = None if correct is None else _pure("correct", correct)
        right = None if of_correct is None else lambda outputs, batch: of_correct(outputs, batch.y)
        return Measure(lambda outputs, batch: of_losses(outputs, batch.y), right)
    if correct is not None:
        raise ConfigError("The criterion is a Measure, which has its own correct; leave correct= out.")
    return criterion


def _check_ignored(spec: DatasetSpec, criterion: OfOutputs | Measure) -> None:
    """Refuses a measure that would count what the data set says is no class id.

    torch's cross entropy leaves -100 out of the losses by itself, and out of nothing else.
    """
    named = spec.ignore_index
    if named is None or not isinstance(criterion, Measure) or criterion.ignore_index == named:
        return
    raise ConfigError(
        f"The data set {spec.name} has ignore_index={named}, and the measure has "
        f"ignore_index={criterion.ignore_index}: it would count these targets. "
        f"Take measures.tokens(ignore_index={named}), or say in a Measure of your own that it leaves them out, by its "
        f"ignore_index={named}."
    )


def _check_targets(spec: DatasetSpec, criterion: OfOutputs | Measure) -> DatasetSpec:
    """Looks at the smallest and the largest targets of both splits.

    Returns:
        The data set; a streamed one, of which a few items are looked at here, looks at others as they are read.
    """
    if not isinstance(criterion, Measure) or criterion.targets is None:
        return spec
    dtype = torch.get_default_dtype()
    known = ["fake", "extremes"] if spec.extremes else ["fake"]
    few = {"fake": (random.key(0), EXAMPLES, dtype), "extremes": (dtype,)}
    for name in known:
        y = spec.function(name)(spec, *few[name])[1]
        if not y.numel() or (criterion.of_ids and not y.is_floating_point()):
            return spec
        wrong = outside(y.numpy(), criterion.targets)
        if wrong:
            raise ConfigError(f"The targets of {spec.name} {wrong}")
    if not isinstance(spec.reader, Reader):
        return spec
    return replace(spec, reader=replace(spec.reader, targets=criterion.targets))


def _pure(role: str, function: OfOutputs) -> OfOutputs:
    """A function of outputs and targets; of a module, with its constants in the type and place of the outputs.

    Raises:
        ConfigError: it is not a function, or a module with parameters that nothing would train.
    """
    if not callable(function):
        raise ConfigError(f"{role}= is a function (outputs, y) -> (B,), not {function!r}.")
    if not isinstance(function, nn.Module):
        return function
    trained = [name for name, parameter in function.named_parameters() if parameter.requires_grad]
    if trained:
        raise ConfigError(
            f"{role}= has parameters of its own, {trained}, which nothing would train. Hold them in the module and "
            f"return them with its outputs, or call requires_grad_(False) on the {role}."
        )
    held = copied(function, {})
    places = places_of(held)
    leaves = {id(leaf): leaf.detach() for leaf in (*held.parameters(), *held.buffers())}
    constants = {name: leaves[leaf] for leaf, name in names_of(held).items()}

    def call(outputs: Any, y: Tensor) -> Tensor:
        found = (leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point())
        like = next(found, y)
        moved = {name: tensor.to(like.device, _as_in(like.dtype, tensor)) for name, tensor in constants.items()}
        return call_tied(held, places, moved, (outputs, y))

    return call


def _check_scripted(net: nn.Module) -> None:
    scripted = [path or "itself" for path, part in net.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    if scripted:
        raise ConfigError(
            f"The module holds compiled TorchScript (torch.jit.script, torch.jit.trace): {scripted[:3]}. It cannot be "
            "called with other parameters; give the module that it was made from."
        )


def _check_embeddings(net: nn.Module) -> None:
    """Refuses gradients that are divided by how often an id is in the batch: those of no mean of examples' losses."""
    kinds = (nn.Embedding, nn.EmbeddingBag)
    wrong = [path for path, part in net.named_modules() if isinstance(part, kinds) and part.scale_grad_by_freq]
    if wrong:
        raise ConfigError(
            f"The embeddings {wrong} have scale_grad_by_freq=True, which divides a row's gradient by how often its id "
            "is in the batch: it is then not the gradient of the loss. Leave it out."
        )


def _check_regularize(regularize: Callable[[str, Tensor], bool], described: nn.Module) -> None:
    for name, parameter in described.named_parameters():
        if not parameter.requires_grad:
            continue
        try:
            result = regularize(name, parameter)
        except Exception as error:  # whatever a function of the user's raises
            raise ConfigError(
                f"regularize({name!r}, parameter) raised {type(error).__name__}: {error}. It is asked for each "
                "parameter by its name and a tensor that has its shape and no data."
            ) from error
        if not isinstance(result, bool):
            raise ConfigError(
                f"regularize({name!r}, parameter) returned {result!r}; it must return True or False: whether the "
                "penalty counts the parameter."
            )
