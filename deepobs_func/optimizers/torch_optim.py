"""Any `torch.optim.Optimizer` behind the interface of the functional ones.

The instance owns leaf tensors and changes them in place, so its step stands outside the compiled part; the gradient is
the oracle's. The parameters that a step returns are copies, which later steps leave alone, and a step starts from the
parameters that it is given. Random numbers that the class draws come from a generator state of its own, seeded from the
run's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from deepobs_func import random
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError
from deepobs_func.imports import cause
from deepobs_func.optimizers.base import Optimizer, Oracle
from deepobs_func.optimizers.counting import KINDS
from deepobs_func.optimizers.factories import Class, Make, construct, constructor_defaults, load_class, made_by
from deepobs_func.optimizers.gradients import Asked, Closure, Leaves, copied, differentiates, takes_closure
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.snapshot import SnapshotError, decode, difference, encode

__all__ = ["TorchState", "constructor_defaults", "from_class", "from_factory", "load_class"]

_UNIT = "lr_of_factor_1"  # in a group whose learning rate is zero now: what to go on from


@dataclass
class TorchState:
    """The state of a torch optimizer, or of several; `save` makes a value of it.

    Attributes:
        instances: the optimizers, in the order in which they step.
        schedulers: of their learning rates.
        leaves: the parameters that it owns.
        generator: the states of the generators that it draws from.
        returned: the parameters that the leaves are at: those given to `init`, then those of the last update.
        graph: whether its gradients need a graph.
        step: the steps made.
        factor: the factor of the learning rate in force.
        calls: how often the oracle was called, by kind.
        verified: whether it was seen that a snapshot holds all of it.
    """

    instances: list[torch.optim.Optimizer]
    schedulers: list[LRScheduler]
    leaves: Leaves
    generator: list[Tensor]
    returned: Params
    graph: bool
    step: int = 0
    factor: float = 1.0
    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    verified: bool = field(default=False, repr=False)

    @property
    def held(self) -> dict[str, Any]:
        """All that a step may change, except for the values of the leaves."""
        attributes = {name: vars(leaf) for name, leaf in self.leaves.items()}
        optimizer = self.instances[0] if len(self.instances) == 1 else self.instances
        return {"optimizer": optimizer, "scheduler": self.schedulers, "parameters": attributes}


def from_factory(make: Make, *, name: str | None = None, schedule: Schedule | None = None) -> Optimizer:
    """Makes an optimizer of a function that makes one torch optimizer or several, with schedulers or without.

    Several step one after the other, on the gradients at the point where the first one starts. A closure is given to a
    `step` that takes one. Gradients have a graph where the class differentiates them (AdaHessian). An optimizer with
    the methods `train()` and `eval()` makes its steps in the first mode, and is evaluated at the parameters of the
    second.

    Args:
        make: called as `make([(name, parameter), ...])`, as in `nn.Module.named_parameters()`, once for each run.
            It may sort the parameters into groups, and returns a `torch.optim.Optimizer`, or that and a
            `torch.optim.lr_scheduler.LRScheduler`, which is stepped once after every step of the optimizer, or a list
            of several of both, for instance one optimizer for the matrices and one for the rest.
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
            instances, schedulers = made_by(make, leaves, called)
            generator = _generator_state(params)
        if schedulers and schedule is not None:
            raise ConfigError(f"{called} has a scheduler of its own; drop that, or the schedule of the run.")
        graph = any(map(differentiates, instances))
        return TorchState(instances, schedulers, leaves, generator, dict(params), graph)

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
        decode(tree["held"], state.held, state.leaves, {type(each).__module__ for each in state.instances})
        state.generator = [words.cpu().clone() for words in tree["generator"]]  # of a GPU's generator too
        state.step, state.factor, state.calls = tree["step"], tree["factor"], dict(tree["calls"])
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
            tree["calls"] = dict(state.calls)
            if state.step and not state.verified:
                twin = restored(tree, state.returned, random.key(0))
                place = difference(encode(twin.held, twin.leaves), held)
                if place is not None:
                    raise SnapshotError(f"{place} is not what it was in a restored one")
                state.verified = True
        except SnapshotError as error:
            raise ConfigError(f"The state of {called} cannot be saved: {error}. Run it without checkpoints.") from error
        return tree

    return Optimizer(
        init, update, compiles=False, eval_params=_eval_params, save=save, load=load, calls=lambda state: state.calls
    )


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
        ConfigError: (from `init`) the constructor raised, with its own words and where; or it takes any keyword and no
            group has the learning rate.

    >>> optimizer = from_class(torch.optim.AdamW, 1e-3, {"weight_decay": 0.1})
    """
    given = ", ".join(f"{name}={value!r}" for name, value in {"lr": lr, **hyperparams}.items())
    name = f"{cls.__module__}.{cls.__qualname__}({given})"
    return from_factory(lambda named: construct(cls, dict(named), lr, hyperparams), name=name, schedule=schedule)


def _move(state: TorchState, params: Params) -> None:
    """Puts the leaves where a step shall start; they are there already in a run that goes on."""
    for name, leaf in state.leaves.items():
        if params[name] is not state.returned[name]:
            leaf.data.copy_(params[name])


def _schedule(state: TorchState, factor: float) -> None:
    """Scales the learning rates where the factor changes; a class that moves its own is left alone otherwise."""
    if factor == state.factor:
        return
    rates = []  # all of them before any is changed: groups may share one tensor
    for instance in state.instances:
        for group in instance.param_groups:
            if "lr" not in group:
                raise ConfigError(f"{type(instance).__name__} keeps no 'lr' in its groups, so it takes no schedule.")
            unit = group["lr"] / state.factor if state.factor else group.pop(_UNIT)
            rates.append((group, unit, group["lr"] * (factor / state.factor) if state.factor else unit * factor))
    for group, unit, rate in rates:
        if not factor:
            group[_UNIT] = unit
        if isinstance(group["lr"], Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"] = rate
    state.factor = factor


def _step(state: TorchState, oracle: Oracle, params: Params, called: str) -> None:
    """One step, with gradients in place and a closure at hand for classes that evaluate more than once (L-BFGS)."""
    _set_mode(state, "train")
    asked = Asked(oracle, params, state.calls)
    for instance in state.instances:
        own = state.leaves if len(state.instances) == 1 else _own(instance, state.leaves)
        sparse = isinstance(instance, torch.optim.SparseAdam)
        _step_one(instance, Closure(state.leaves, own, asked, graph=state.graph, sparse=sparse), called)
    for scheduler in state.schedulers:
        scheduler.step()
    for leaf in state.leaves.values():
        leaf.grad = None  # a gradient with a graph would keep its leaf for ever


def _step_one(instance: Any, closure: Closure, called: str) -> None:
    closure()
    try:
        instance.step(closure) if takes_closure(instance) else instance.step()
    except RuntimeError as error:
        if closure.graph or not any(words in str(error) for words in ("grad_fn", "does not require grad")):
            raise
        raise ConfigError(
            f"{called} differentiates its gradients, which was not seen in its code ({cause(error)}). Call "
            "torch.autograd.grad in step() or in a function that it names, or take the functional adahessian, sophia_h."
        ) from error
    closure.end()


def _own(instance: torch.optim.Optimizer, leaves: Leaves) -> Leaves:
    """The leaves that an optimizer moves."""
    moved = {id(leaf) for group in instance.param_groups for leaf in group["params"]}
    return {name: leaf for name, leaf in leaves.items() if id(leaf) in moved}


def _has_modes(instance: torch.optim.Optimizer) -> bool:
    return all(callable(getattr(instance, mode, None)) for mode in ("train", "eval"))


def _set_mode(state: TorchState, mode: str) -> None:
    for instance in filter(_has_modes, state.instances):
        getattr(instance, mode)()


def _eval_params(state: TorchState, params: Params) -> Params:
    """The parameters in the mode of evaluation. Afterwards all is bit for bit as it was: both switches round."""
    if not state.step or not any(map(_has_modes, state.instances)):
        return params
    _move(state, params)
    _set_mode(state, "eval")
    averaged = copied(state.leaves)
    _set_mode(state, "train")
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
