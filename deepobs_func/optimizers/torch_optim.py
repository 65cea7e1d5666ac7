"""Any `torch.optim.Optimizer` behind the interface of the functional ones.

The instance owns leaf tensors and changes them in place, so its step stands outside the compiled part; the gradient is
the oracle's. The parameters that a step returns are copies, which later steps leave alone, and a step starts from the
parameters that it is given. Random numbers that the class draws come from a generator state of its own, seeded from the
run's key.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deepobs_func import random
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError
from deepobs_func.imports import cause, load_object
from deepobs_func.optimizers.base import Optimizer, Oracle
from deepobs_func.optimizers.gradients import Closure, Leaves, copied, differentiates, takes_closure
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.snapshot import SnapshotError, decode, difference, encode

Class = type[torch.optim.Optimizer]
Made = torch.optim.Optimizer | tuple[torch.optim.Optimizer, LRScheduler]
Make = Callable[[list[tuple[str, nn.Parameter]]], Made]
WRAPPED = ("optimizer", "base_optimizer")
"""Constructor arguments that are another optimizer class."""


def load_class(path: str) -> Class:
    """The optimizer class of an import path, e.g. `torch.optim.AdamW` or `my_package.MyOptimizer`.

    Raises:
        ConfigError: the path does not lead to a subclass of `torch.optim.Optimizer`; the message names the part of the
            path that exists.
    """
    found = load_object(path, "optimizer")
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"{path} is not a subclass of torch.optim.Optimizer but {found!r}.")
    return found


def constructor_defaults(cls: Class) -> dict[str, Any]:
    """The hyperparameters that a class takes besides the parameters and the learning rate, with their defaults.

    One that has no default maps to `inspect.Parameter.empty`. The class that a wrapper wraps is one of them.
    """
    first, *others = inspect.signature(cls).parameters.values()
    parameters = [first, *others] if first.name in WRAPPED else others
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: p.default for p in named if p.name not in ("lr", "params")}


@dataclass
class TorchState:
    """The state of a torch optimizer; `save` makes a value of it.

    Attributes:
        instance: the optimizer.
        scheduler: of its learning rate; None where there is none.
        leaves: the parameters that it owns.
        generator: the states of the generators that it draws from.
        returned: the parameters that the leaves are at: those given to `init`, then those of the last update.
        graph: whether its gradients need a graph.
        step: the steps made.
        factor: the factor of the learning rate in force.
        verified: whether it was seen that a snapshot holds all of it.
    """

    instance: torch.optim.Optimizer
    scheduler: LRScheduler | None
    leaves: Leaves
    generator: list[Tensor]
    returned: Params
    graph: bool
    step: int = 0
    factor: float = 1.0
    verified: bool = field(default=False, repr=False)

    @property
    def held(self) -> dict[str, Any]:
        """All that a step may change, except for the values of the leaves."""
        attributes = {name: vars(leaf) for name, leaf in self.leaves.items()}
        return {"optimizer": self.instance, "scheduler": self.scheduler, "parameters": attributes}


def from_factory(make: Make, *, name: str | None = None, schedule: Schedule | None = None) -> Optimizer:
    """Makes an optimizer of a function that makes a torch optimizer, with a scheduler or without.

    A closure is given to a `step` that takes one. Gradients have a graph where the class differentiates them
    (AdaHessian). An optimizer with the methods `train()` and `eval()` makes its steps in the first mode, and is
    evaluated at the parameters of the second.

    Args:
        make: called as `make([(name, parameter), ...])`, as in `nn.Module.named_parameters()`, once for each run.
            It may sort the parameters into groups, and returns a `torch.optim.Optimizer`, or that and a
            `torch.optim.lr_scheduler.LRScheduler`, which is stepped once after every step of the optimizer.
        name: in messages; that of the function by default.
        schedule: the factor of the learning rate by step; not together with a scheduler.

    Returns:
        The optimizer; its step changes tensors of its own in place, and copies what it returns.

    Raises:
        ConfigError: (from `init`) the function raised, with its own words and where, or made something else.

    >>> optimizer = from_factory(lambda named: torch.optim.SGD([p for _, p in named], lr=0.1))
    """
    called = name or f"{make.__module__}.{make.__qualname__}"

    def init(params: Params, key: random.Key) -> TorchState:
        leaves = {name: nn.Parameter(tensor) for name, tensor in copied(params).items()}
        words = random.bits(random.fold_in(key, random.OPTIMIZER), 2).tolist()
        with torch.random.fork_rng(_devices(params)):
            torch.manual_seed(words[0] << 31 | words[1] >> 1)
            instance, scheduler = _made(make, leaves, called)
            generator = _generator_state(params)
        if scheduler is not None and schedule is not None:
            raise ConfigError(f"{called} has a scheduler of its own; drop that, or the schedule of the run.")
        return TorchState(instance, scheduler, leaves, generator, dict(params), differentiates(instance))

    def update(oracle: Oracle, state: TorchState, params: Params) -> tuple[Params, TorchState]:
        if schedule is not None:
            _schedule(state, float(schedule(torch.tensor(state.step))))
        with torch.random.fork_rng(_devices(params)):
            _set_generator_state(params, state.generator)
            _move(state, params)
            _step(state, oracle, params, called)
            state.generator = _generator_state(params)
        state.step += 1
        state.returned = copied(state.leaves)
        return dict(state.returned), state

    def restored(tree: Any, params: Params, key: random.Key) -> TorchState:
        state = init(params, key)
        decode(tree["held"], state.held, state.leaves, type(state.instance).__module__)
        state.generator = [words.clone() for words in tree["generator"]]
        state.step, state.factor = tree["step"], tree["factor"]
        return state

    def load(tree: Any, params: Params, key: random.Key) -> TorchState:
        try:
            return restored(tree, params, key)
        except SnapshotError as error:
            raise ConfigError(f"The state of {called} cannot be restored: {error}.") from error

    def save(state: TorchState) -> Any:
        try:
            held = encode(state.held, state.leaves)
            generator = [words.clone() for words in state.generator]
            tree = {"held": held, "generator": generator, "step": state.step, "factor": state.factor}
            if state.step and not state.verified:
                twin = restored(tree, state.returned, random.key(0))
                place = difference(encode(twin.held, twin.leaves), held)
                if place is not None:
                    raise SnapshotError(f"{place} is not what it was in a restored one")
                state.verified = True
        except SnapshotError as error:
            raise ConfigError(f"The state of {called} cannot be saved: {error}. Run it without checkpoints.") from error
        return tree

    return Optimizer(init, update, compiles=False, eval_params=_eval_params, save=save, load=load)


def from_class(cls: Class, lr: float, hyperparams: Mapping[str, Any], schedule: Schedule | None = None) -> Optimizer:
    """Makes an optimizer of a class; see `from_factory`.

    Args:
        cls: called as `cls(parameters, lr=lr, **hyperparams)`. Where the first argument is another optimizer, that is
            made of the class in the hyperparameter of this name: `Lookahead, 0.1, {"optimizer": torch.optim.SGD}`.
            Where it is a model, that is a module which has the parameters, under their names, and no `forward`.
        lr: the base learning rate.
        hyperparams: the other arguments.
        schedule: the factor of the learning rate by step.

    Returns:
        The optimizer.

    Raises:
        ConfigError: (from `init`) the constructor raised; the message has its own words and where.

    >>> optimizer = from_class(torch.optim.AdamW, 1e-3, {"weight_decay": 0.1})
    """
    given = ", ".join(f"{name}={value!r}" for name, value in {"lr": lr, **hyperparams}.items())
    name = f"{cls.__module__}.{cls.__qualname__}({given})"
    return from_factory(lambda named: _construct(cls, dict(named), lr, hyperparams), name=name, schedule=schedule)


def _construct(cls: Any, leaves: Leaves, lr: float, hyperparams: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The instance; a class in the hyperparameters may be an import path."""
    values: dict[str, Any] = {"lr": lr, **hyperparams}
    values |= {name: load_class(values[name]) for name in WRAPPED if isinstance(values.get(name), str)}
    first, *others = inspect.signature(cls).parameters
    if first in WRAPPED:
        if not isinstance(values.get(first), type):
            raise ConfigError(
                f"{cls.__name__} wraps another optimizer: give its class as the hyperparameter {first!r}, e.g. "
                "torch.optim.SGD, or give a factory that makes both."
            )
        inner = values.pop(first)(leaves.values(), lr=values.pop("lr"))
        return cls(inner, **values)
    if first in ("model", "module"):
        values |= {"params": leaves.values()} if "params" in others else {}
        return cls(_module_of(leaves), **values)
    return cls(leaves.values(), **values)


def _module_of(leaves: Leaves) -> nn.Module:
    """A module whose `named_parameters()` are the leaves."""
    root = nn.Module()
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        owner = root
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        owner.register_parameter(name, leaf)
    return root


def _made(make: Make, leaves: Leaves, called: str) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """What a factory makes, checked."""
    try:
        made = make(list(leaves.items()))
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's constructor raises is the user's to read
        raise ConfigError(f"{called} raised {cause(error)}.") from error
    instance, scheduler = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(instance, torch.optim.Optimizer):
        raise ConfigError(f"{called} made {made!r}; it must be a torch.optim.Optimizer, or that and a scheduler.")
    if isinstance(scheduler, ReduceLROnPlateau) or not isinstance(scheduler, LRScheduler | None):
        raise ConfigError(
            f"{called} made the scheduler {scheduler!r}; it must be a torch.optim.lr_scheduler.LRScheduler whose "
            "step() needs no metric."
        )
    backward = [method for method in dir(type(instance)) if "backward" in method]
    if backward:
        raise ConfigError(
            f"{called} makes its own backward pass ({type(instance).__name__}.{backward[0]}), so that a step is more "
            "than step(). Take a class that works on .grad."
        )
    known = {id(leaf) for leaf in leaves.values()}
    if any(id(leaf) not in known for group in instance.param_groups for leaf in group["params"]):
        raise ConfigError(f"{called} optimizes tensors that are not the parameters which it was given.")
    return instance, scheduler


def _move(state: TorchState, params: Params) -> None:
    """Puts the leaves where a step shall start; they are there already in a run that goes on."""
    for name, leaf in state.leaves.items():
        if params[name] is not state.returned[name]:
            leaf.data.copy_(params[name])


def _schedule(state: TorchState, factor: float) -> None:
    """Scales the learning rates where the factor changes; a class that moves its own is left alone otherwise."""
    if factor == state.factor:
        return
    for group in state.instance.param_groups:
        if "lr" not in group:
            raise ConfigError(f"{type(state.instance).__name__} keeps no 'lr' in its groups, so it takes no schedule.")
        group["lr"] *= factor / state.factor
    state.factor = factor


def _step(state: TorchState, oracle: Oracle, params: Params, called: str) -> None:
    """One step, with gradients in place and a closure at hand for classes that evaluate more than once (L-BFGS)."""
    instance: Any = state.instance
    sparse = isinstance(instance, torch.optim.SparseAdam)
    closure = Closure(state.leaves, params, oracle, graph=state.graph, sparse=sparse)
    if _has_modes(instance):
        instance.train()
    closure()
    try:
        instance.step(closure) if takes_closure(instance) else instance.step()
    except RuntimeError as error:
        if state.graph or not any(words in str(error) for words in ("grad_fn", "does not require grad")):
            raise
        raise ConfigError(
            f"{called} differentiates its gradients, which was not seen in its code ({cause(error)}). Call "
            "torch.autograd.grad in step() or in a function that it names, or take the functional adahessian, sophia_h."
        ) from error
    if state.scheduler is not None:
        state.scheduler.step()
    for leaf in state.leaves.values():
        leaf.grad = None  # a gradient with a graph would keep its leaf for ever


def _has_modes(instance: torch.optim.Optimizer) -> bool:
    return all(callable(getattr(instance, mode, None)) for mode in ("train", "eval"))


def _eval_params(state: TorchState, params: Params) -> Params:
    """The parameters in the mode of evaluation. Afterwards all is bit for bit as it was: both switches round."""
    if not state.step or not _has_modes(state.instance):
        return params
    instance: Any = state.instance
    _move(state, params)
    instance.eval()
    averaged = copied(state.leaves)
    instance.train()
    for name, leaf in state.leaves.items():
        leaf.data.copy_(state.returned[name])
    return averaged


def _devices(params: Params) -> list[torch.device]:
    return [tensor.device for tensor in list(params.values())[:1] if tensor.device.type == "cuda"]


def _generator_state(params: Params) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _devices(params))]


def _set_generator_state(params: Params, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(_devices(params), states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)
