"""Registries: names to problems, data sets, optimizers and quantities, ours and those of other packages.

Another package adds its own by an entry point of the registry's group, which names an object or a list of them:

    [project.entry-points."deepobs_func.problems"]
    my_problems = "my_package.problems:SPECS"

Nothing of another package is imported before one of its names, or a listing, is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar

from deepobs_func.errors import ConfigError, unknown
from deepobs_func.imports import cause

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names of one kind, in the order in which they came: ours first, then those of entry points.

    Args:
        kind: what a name stands for, in messages, e.g. `"problem"`.
        kind_of: the class that every entry has.
        own: the entries of this package.
        group: of the entry points by which other packages add theirs, e.g. `"deepobs_func.problems"`.
        name_of: the name of an entry.
        listing: the command that lists them.
    """

    def __init__(
        self,
        kind: str,
        kind_of: type[T],
        own: Iterable[T],
        *,
        group: str,
        name_of: Callable[[T], str] = lambda entry: entry.name,  # type: ignore[attr-defined]
        listing: str = "",
    ) -> None:
        self._kind, self._class, self._group, self._name_of, self._listing = kind, kind_of, group, name_of, listing
        self._own = {name_of(entry): entry for entry in own}
        self._others: dict[str, T] | None = None

    def __getitem__(self, name: str) -> T:
        """The entry of a name.

        Raises:
            KeyError: there is none; `find` has a message for users.
        """
        return self._own[name] if name in self._own else self._found()[name]

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._found()

    def __len__(self) -> int:
        return len(self._own) + len(self._found())

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._found()

    def find(self, name: str) -> T:
        """The entry of a name that a user gave.

        Raises:
            ConfigError: there is none; the message has the nearest name.
        """
        if name not in self:
            raise ConfigError(unknown(self._kind, name, self, listing=self._listing))
        return self[name]

    @property
    def own(self) -> Mapping[str, T]:
        """Those of this package."""
        return self._own

    def _found(self) -> dict[str, T]:
        """Those of other packages, looked for once."""
        if self._others is None:
            self._others = {}
            for point in metadata.entry_points(group=self._group):
                for entry in self._loaded(point):
                    self._add(entry, point)
        return self._others

    def _loaded(self, point: metadata.EntryPoint) -> list[T]:
        try:
            value: Any = point.load()
        except Exception as error:  # another package's module may raise anything
            raise ConfigError(
                f"The {self._kind} entry point {point.name!r} ({point.value}) cannot be loaded: {cause(error)}. "
                f"Mend or uninstall the package that brings it."
            ) from error
        entries = list(value) if isinstance(value, list | tuple) else [value]
        for entry in entries:
            if not isinstance(entry, self._class):
                raise ConfigError(
                    f"The {self._kind} entry point {point.name!r} ({point.value}) holds {entry!r}; it must be a "
                    f"{self._class.__name__}, or a list of them."
                )
        return entries

    def _add(self, entry: T, point: metadata.EntryPoint) -> None:
        name = self._name_of(entry)
        assert self._others is not None
        if name in self._own or name in self._others:
            raise ConfigError(
                f"The {self._kind} {name!r} of the entry point {point.name!r} ({point.value}) has the name of another "
                "one. Give it a name of its own."
            )
        self._others[name] = entry
