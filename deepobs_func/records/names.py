"""Folder names: DeepOBS's own where a run is DeepOBS's, and never one name for two settings.

A name is `key__value__key__value...`. No key and no value has two underscores in a row, or one where it could touch
those of a separator, and what is not plain text ends in `~` and a hash, so that a name says one thing only.
"""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

from deepobs_func.records.places import output_path
from deepobs_func.records.record import RunRecord

LONGEST = 255  # bytes in the name of a file or folder, on every file system in use
DEEPOBS = "deepobs-1.1.2"  # the protocol whose names are DeepOBS's own
_ON_DIVERGENCE = {"default": "stop", DEEPOBS: "continue"}  # what a protocol says, so that no name has to

_CHANGES = ("schedule", "warm_up", "clip_norm", "clip_value", "valid")  # of the optimizer and the data, by name

_PLAIN_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9.+=-]*(_[A-Za-z0-9.+=-]+)*")
_PLAIN_KEY = re.compile(r"_?[A-Za-z0-9]+(_[A-Za-z0-9]+)*_?")
_PLAIN_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,()=+-]*(?<!\.)")
_WORDS_OF_NUMBERS = ("True", "False", "None", "nan", "inf")
_KEYS = (
    *("num_epochs", "batch_size", "weight_decay", "lr", "lr_schedule"),
    *("schedule", "warm_up", "decay_factor", "clip_norm", "clip_value", "valid"),
    *("protocol", "on_divergence", "precision", "bn_sync", "data", "code"),
)


class _Element(NamedTuple):
    """A part of a name; the higher the rank, the sooner it is left out of a name that is too long."""

    text: str
    rank: int = 0


def float2str(value: float) -> str:
    """DeepOBS's name of a number: ten digits, trailing zeros stripped, the dot kept.

    >>> float2str(0.01), float2str(10**-0.4), float2str(0.0)
    ('1.e-02', '3.9810717055e-01', '0.e+00')
    """
    if not math.isfinite(value):
        return str(float(value))
    mantissa, exponent = f"{value:.10e}".split("e")
    return f"{mantissa.rstrip('0')}e{exponent}"


def lr_schedule(lr: float, epochs: Sequence[int], factors: Sequence[float]) -> dict[int, float]:
    """The learning rate from each epoch on; factors multiply the base rate.

    Args:
        lr: the base rate.
        epochs: where the rate changes, increasing.
        factors: of the base rate, one for each epoch.

    Returns:
        From an epoch to the rate from there on; epoch 0 has the base rate.

    >>> lr_schedule(0.3, [50, 100], [0.1, 0.01])
    {0: 0.3, 50: 0.03, 100: 0.003}
    """
    return {0: lr} | {epoch: lr * factor for epoch, factor in zip(epochs, factors, strict=True)}


def setting_name(record: RunRecord) -> str:
    """The folder name of a setting: DeepOBS's, and at the end what DeepOBS does not know.

    `num_epochs__N__batch_size__B__[weight_decay__W__]name__value__...lr__LR`, hyperparameters sorted by name, or
    `lr_schedule__0_LR_E1_LR1...`. Then schedule, warm-up, clipping and validation,
    `protocol__default`, `on_divergence__...` (where it is not the protocol's), `precision__bf16`,
    `bn_sync__local_N` (of batch norm with statistics of N shards apart), `data__synthetic` and
    `code__HASH` (of a problem or an optimizer of the user's own). A run of the protocol `deepobs-1.1.2` in float32 on
    real data has DeepOBS's name. Numbers have ten digits, as in DeepOBS.

    A sequence is `(9.e-01,9.99e-01)`. A hyperparameter with the name of a key of DeepOBS's own is `opt.weight_decay`.
    Of a class's hyperparameters, a flag that is off by default is not in the name. A name of more than 255 bytes is
    shortened and ends in a hash of the whole.

    Returns:
        A name of at most 255 bytes.
    """
    elements = [*_elements(record)]
    name = "__".join(element.text for element in elements)
    return name if len(name) <= LONGEST else _shortened(elements, name)


def folder_of(record: RunRecord, output_dir: str | Path) -> Path:
    """The folder of a record: `<output_dir>/<testproblem>/<optimizer>/<setting>`."""
    return output_path(output_dir) / relative_folder(record)


def relative_folder(record: RunRecord) -> Path:
    """`<testproblem>/<optimizer>/<setting>`, in the results tree and in the state folder."""
    return Path(_folder_name(record.testproblem), _folder_name(record.optimizer), setting_name(record))


def class_name(cls: type | FunctionType) -> str:
    """The name of an optimizer class in a record and its folder: bare for torch's own, else with its module.

    >>> class_name(Path)
    'pathlib.Path'
    """
    if cls.__module__.split(".")[:2] == ["torch", "optim"]:
        return cls.__name__
    return f"{cls.__module__}.{cls.__qualname__}"


def _elements(record: RunRecord) -> Iterator[_Element]:
    yield _Element(f"num_epochs__{record.num_epochs}")
    yield _Element(f"batch_size__{record.batch_size}")
    if record.weight_decay is not None:
        yield _Element(f"weight_decay__{float2str(record.weight_decay)}")
    off = set(record.extra.get("defaults", ()))
    for name, value in sorted(record.hyperparams.items()):
        if not (value is False and name in off):
            is_flag = value is None or isinstance(value, bool)
            yield _Element(f"{_key2str(name)}__{_value2str(value)}", rank=2 if is_flag else 1)
    if record.lr_sched_epochs:
        schedule = lr_schedule(record.learning_rate, record.lr_sched_epochs, record.lr_sched_factors or [])
        yield _Element("lr_schedule__" + "_".join(f"{epoch}_{float2str(lr)}" for epoch, lr in schedule.items()))
    else:
        yield _Element(f"lr__{float2str(record.learning_rate)}")
    yield from (_Element(f"{key}__{value}") for key, value in _variant(record).items())


def _variant(record: RunRecord) -> dict[str, str]:
    """In what a run differs from DeepOBS's own runs."""
    extra, configuration = record.extra, record.extra.get("configuration", {})
    found = {name: _value2str(configuration[name]) for name in _CHANGES if configuration.get(name)}
    if configuration.get("schedule") == "exponential":
        found["decay_factor"] = _value2str(configuration["decay_factor"])
    protocol = extra.get("protocol", DEEPOBS)
    if protocol != DEEPOBS:
        found["protocol"] = _value2str(protocol)
    on_divergence = configuration.get("on_divergence")
    if on_divergence is not None and on_divergence != _ON_DIVERGENCE.get(protocol):
        found["on_divergence"] = _value2str(on_divergence)
    precision = configuration.get("precision", "float32")
    if precision != "float32":
        found["precision"] = _value2str(precision)
    if extra.get("statistics_of_shards"):
        found["bn_sync"] = f"local_{extra['statistics_of_shards']}"
    if record.synthetic:
        found["data"] = "synthetic"
    if extra.get("code"):
        found["code"] = _hash(json.dumps(extra["code"], sort_keys=True), 12)
    return found


def _shortened(elements: Sequence[_Element], whole: str) -> str:
    """What says most of a name that is too long, and the hash of all of it."""
    kept = list(elements)
    for rank in (2, 1):
        for element in reversed([element for element in elements if element.rank == rank]):
            if _length(kept) > LONGEST:
                kept.remove(element)
    while (too_long := _length(kept) - LONGEST) > 0:
        longest = max(kept, key=lambda element: len(element.text))
        kept[kept.index(longest)] = _Element(longest.text[: max(len(longest.text) - too_long, 12)].rstrip("_."))
    return "__".join(element.text for element in kept) + "__~" + _hash(whole, 16)


def _length(elements: Sequence[_Element]) -> int:
    return sum(len(element.text) + 2 for element in elements) + 1 + 16


def _key2str(name: str) -> str:
    if name in _KEYS:
        return f"opt.{name}"
    return name if _PLAIN_KEY.fullmatch(name) and name.isascii() else _escaped(name)


def _value2str(value: Any) -> str:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy's or torch's
        value = value.item()
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real):
        return float2str(float(value))
    if isinstance(value, str):
        plain = _PLAIN_VALUE.fullmatch(value) and value.isascii() and value not in _WORDS_OF_NUMBERS
        return value if plain and len(value) <= LONGEST else _escaped(value)
    if isinstance(value, list | tuple):
        return f"({','.join(map(_value2str, value))})"
    return _escaped(_described(value), type(value).__name__)


def _described(value: Any) -> str:
    """A value of another kind in words that do not depend on the process: no addresses, no order of a set."""
    if isinstance(value, dict):
        return f"dict({','.join(sorted(f'{_value2str(key)}={_value2str(item)}' for key, item in value.items()))})"
    if isinstance(value, set | frozenset):
        return f"set({','.join(sorted(map(_value2str, value)))})"
    return f"{type(value).__qualname__} {re.sub(r' at 0x[0-9a-f]+', '', repr(value))}"


def _escaped(text: str, head: str | None = None) -> str:
    """What is readable of a text, in ASCII, and its hash."""
    readable = re.sub(r"[^A-Za-z0-9.+=-]+", "-", text if head is None else head)[:40].strip(".-")
    return f"{readable}~{_hash(text, 12)}"


def _folder_name(name: str) -> str:
    """The name of a problem or an optimizer, in any alphabet, as a folder."""
    if len(name) <= LONGEST and _PLAIN_FOLDER.fullmatch(name) and name.isascii():
        return name
    readable = "".join(letter if letter.isalnum() or letter in "_.,()=+-" else "-" for letter in name).lstrip(".")
    return f"{readable.encode()[:150].decode(errors='ignore')}~{_hash(name, 12)}"


def _hash(text: str, length: int) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]
