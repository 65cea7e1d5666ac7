"""The YAML of the PyTorch port of DeepOBS, as a study.

Source: `deepobs/benchmark.py` of https://github.com/govorunov/deepobs, whose files and defaults are meant. Every key is
honoured, or refused with the reason; what the port itself passes over is in the study's notes.

Deviation: the port hands an optimizer's `weight_decay` to the problem's L2 penalty. Its documentation says that it is
the optimizer's, and here it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deepobs_func import optimizers, problems
from deepobs_func.errors import unknown
from deepobs_func.runner.config import is_path
from deepobs_func.study.places import Origin, SpecError, Where, name_of, value_in_yaml
from deepobs_func.study.spaces import Values
from deepobs_func.study.spec import Study

_ITS_OWN = ("global", "test_problems", "advanced")  # no key of ours
_KEYS = ("global", "test_problems", "optimizers", "overrides", "advanced")
_GLOBAL = {  # to the setting of a `RunConfig`, with the port's default
    "num_epochs": ("epochs", 10),
    "batch_size": ("batch_size", 128),
    "train_log_interval": ("train_log_interval", 100),
}
_OTHER_GLOBAL = ("output_dir", "random_seed", "data_dir", "print_train_iter")
_OF_PROBLEM = {"num_epochs": "epochs", "batch_size": "batch_size"}
_OF_OPTIMIZER = ("name", "optimizer_class", "learning_rate", "lr_schedule")
_ADVANCED = ("parallel", "continue_existing", "verbose")
KEYS = (*_KEYS, *_GLOBAL, *_OTHER_GLOBAL, *_OF_OPTIMIZER, *_ADVANCED)
"""All keys of a file of the port, but hyperparameters."""
_NOT_HERE = (  # problems of the port that DeepOBS 1.1.2 does not have
    *("textgen", "ptb_lstm", "ptb_gpt_micro"),
    *("food101_vgg16", "food101_vgg19", "food101_vit_micro"),
)


def is_port(data: Mapping[str, Any]) -> bool:
    """Whether the content of a YAML file is the port's."""
    return any(key in data for key in _ITS_OWN)


def study(data: Mapping[str, Any], origin: Origin) -> Study:
    """The study of a file of the port.

    Args:
        data: the content of the file.
        origin: its lines.

    Raises:
        SpecError: a key is unknown, or cannot be honoured; or a value is wrong.
    """
    return Study(**_Translation(data, origin).arguments())


@dataclass
class _Translation:
    """A file of the port on its way to the arguments of a `Study`.

    Attributes:
        data: the content of the file.
        origin: its lines.
        lines, names: of the study's values, as the file has them.
        notes: what has no part in the study.
    """

    data: Mapping[str, Any]
    origin: Origin
    lines: dict[Where, int] = field(default_factory=dict)
    names: dict[Where, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the study."""
        _check_keys(self.data, (), _KEYS)
        overrides: dict[str, dict[str, Any]] = {}
        found = self._global() | {
            "problems": self._problems(overrides),
            "optimizers": self._optimizers(),
            "overrides": overrides,
        }
        self._overrides(overrides, found["optimizers"])
        found |= self._advanced()
        origin = Origin(self.origin.file, self.lines, self.names)
        return found | {"notes": tuple(self.notes), "origin": origin}

    def _global(self) -> dict[str, Any]:
        given = _mapping(self.data.get("global"), ("global",))
        _check_keys(given, ("global",), (*_GLOBAL, *_OTHER_GLOBAL))
        if _flag(given, "print_train_iter", ("global",)):
            raise SpecError(
                ("global", "print_train_iter"),
                "True: no loss is printed as it goes. Remove the key; `deepobs logs` shows them.",
            )
        found: dict[str, Any] = {ours: given.get(name, default) for name, (ours, default) in _GLOBAL.items()}
        for name, (ours, _) in _GLOBAL.items():
            self._stands(("global", name), (ours,))
        found |= {"output_dir": given.get("output_dir", "./results"), "seeds": [given.get("random_seed", 42)]}
        if given.get("data_dir") is not None:
            found["data"] = given["data_dir"]
        for name, ours in (("output_dir", "output_dir"), ("random_seed", "seeds"), ("data_dir", "data")):
            self._stands(("global", name), (ours,))
        return found

    def _problems(self, overrides: dict[str, dict[str, Any]]) -> list[str]:
        """The names of the problems; what is said of each goes to the overrides."""
        found: list[str] = []
        for where, each in _items(self.data.get("test_problems"), ("test_problems",)):
            _check_keys(each, where, ("name", *_OF_PROBLEM))
            name = _name(each, where)
            if name not in problems.REGISTRY:
                raise SpecError((*where, "name"), _unknown_problem(name))
            self._stands((*where, "name"), ("problems", len(found)))
            found.append(name)
            of_problem = {ours: each[key] for key, ours in _OF_PROBLEM.items() if key in each}
            for key, ours in _OF_PROBLEM.items():
                self._stands((*where, key), ("overrides", name, ours))
            if of_problem:
                overrides[name] = of_problem
        return found

    def _optimizers(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for where, each in _items(self.data.get("optimizers"), ("optimizers",)):
            label = _name(each, where)
            if label in found:
                raise SpecError((*where, "name"), f"{label} is there already; give each optimizer a name of its own.")
            if "learning_rate" not in each:
                raise SpecError(where, f"{label} has no learning_rate; add the key.")
            ours: Where = ("optimizers", label)
            given = each.get("optimizer_class", label)
            self._stands(where, ours)
            self._stands((*where, "optimizer_class" if "optimizer_class" in each else "name"), (*ours, "class"))
            if not isinstance(given, str) or not given:
                raise SpecError((*where, "optimizer_class"), f"{given!r}: it must be an import path.")
            named = is_path(given) or given in optimizers.FUNCTIONAL
            found[label] = {"class": given if named else f"torch.optim.{given}", **self._changes(each, where, ours)}
        return found

    def _changes(self, each: Mapping[str, Any], where: Where, ours: Where) -> dict[str, Any]:
        """What is said of an optimizer, of its entry or of an override."""
        found: dict[str, Any] = {}
        if "learning_rate" in each:
            self._stands((*where, "learning_rate"), (*ours, "lr"))
            found["lr"] = Values((each["learning_rate"],))
        if "lr_schedule" in each:
            self._stands((*where, "lr_schedule"), (*ours, "schedules"))
            found["schedules"] = [_schedule(each["lr_schedule"], (*where, "lr_schedule"))]
        found["hyperparams"] = {}
        for name, value in each.items():
            if name not in _OF_OPTIMIZER:
                self._stands((*where, name), (*ours, "hyperparams", name))
                found["hyperparams"][name] = Values((_fixed(value),))
        return found

    def _overrides(self, overrides: dict[str, dict[str, Any]], optimizers: Collection[str]) -> None:
        given = _mapping(self.data.get("overrides"), ("overrides",))
        chosen = [each["name"] for each in self.data["test_problems"]]
        for problem, of_problem in given.items():
            where: Where = ("overrides", problem)
            if problem not in (*problems.REGISTRY, *_NOT_HERE):
                raise SpecError(where, _unknown_problem(problem))
            for label, each in _mapping(of_problem, where).items():
                here: Where = (*where, label)
                if label not in optimizers:
                    raise SpecError(here, unknown("optimizer of this file", label, optimizers))
                given_here = _mapping(each, here)
                for key in given_here:
                    if key in ("name", "optimizer_class"):
                        raise SpecError((*here, key), "An optimizer has one class on all problems; leave it out here.")
                changes = self._changes(given_here, here, here)
                if problem in chosen:
                    overrides.setdefault(problem, {})[label] = changes
            if problem not in chosen:
                line = self.origin.line(where)
                self.notes.append(f"{name_of(where)} (line {line}) is not used: {problem} is not among test_problems.")

    def _advanced(self) -> dict[str, Any]:
        given = _mapping(self.data.get("advanced"), ("advanced",))
        _check_keys(given, ("advanced",), _ADVANCED)
        if _flag(given, "parallel", ("advanced",)):
            raise SpecError(
                ("advanced", "parallel"),
                "True: it does not say how many runs go on at once. Remove the key, and give --jobs N.",
            )
        if _flag(given, "continue_existing", ("advanced",)) is False:
            self.notes.append(
                "advanced.continue_existing: false has no effect, as in the port: finished runs are not run again. "
                "Another output_dir starts anew."
            )
        if _flag(given, "verbose", ("advanced",)) is False:
            self.notes.append("advanced.verbose: false has no effect, as in the port; --quiet shows less.")
        return {"jobs": 1} if "parallel" in given else {}

    def _stands(self, port: Where, ours: Where) -> None:
        """Says where the file has a value of the study."""
        line = self.origin.line(port)
        if line is not None and port in self.origin.lines:
            self.lines[ours] = line
            self.names[ours] = name_of(port)


def _schedule(value: Any, where: Where) -> dict[str, Any]:
    if value is None:
        return {"schedule": "constant"}
    given = _mapping(value, where)
    _check_keys(given, where, ("epochs", "factors"))
    for key in ("epochs", "factors"):
        if not isinstance(given.get(key), list):
            shown = value_in_yaml(given.get(key))
            raise SpecError(where, f"It needs epochs and factors, a list of each; {key} is {shown}.")
    return {"lr_sched_epochs": given["epochs"], "lr_sched_factors": given["factors"]}


def _items(value: Any, where: Where) -> Iterable[tuple[Where, Mapping[str, Any]]]:
    if not isinstance(value, list) or not value:
        raise SpecError(where, "It must be a list, with one item at least that has a name.")
    for index, each in enumerate(value):
        if not isinstance(each, Mapping):
            raise SpecError((*where, index), f"{each!r}: it must be a mapping with a name.")
        yield (*where, index), each


def _name(each: Mapping[str, Any], where: Where) -> str:
    name = each.get("name")
    if not isinstance(name, str) or not name:
        raise SpecError((*where, "name") if "name" in each else where, f"{name!r}: it must have a name, a text.")
    return name


def _mapping(value: Any, where: Where) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(where, f"{value!r}: it must be a mapping.")
    return value


def _flag(given: Mapping[str, Any], key: str, where: Where) -> bool | None:
    """A key that is true or false; None where it is not there."""
    value = given.get(key)
    if value is not None and not isinstance(value, bool):
        raise SpecError((*where, key), f"{value!r}: it must be true or false.")
    return value


def _check_keys(given: Mapping[str, Any], where: Where, known: Collection[str]) -> None:
    for key in given:
        if key not in known:
            kind = f"key of {name_of(where)}" if where else "key of a study of the PyTorch port"
            raise SpecError((*where, key), unknown(kind, key, known))


def _unknown_problem(name: str) -> str:
    if name in _NOT_HERE:
        return (
            f"{name} is a problem of the port that DeepOBS 1.1.2 does not have, and nor does this package; remove it."
        )
    return unknown("problem", name, problems.REGISTRY, listing="deepobs list")


def _fixed(value: Any) -> Any:
    """One value: of the port, a list is a value too."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value
