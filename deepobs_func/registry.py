"""Registries: names to problems, data sets, optimizers and quantities, ours and those of other packages.

Another package adds its own by an entry point of the registry's group, which names an object or a list of them:

    [project.entry-points."deepobs_func.problems"]
    my_problems = "my_package.problems:SPECS"

Nothing of another package is imported before one of its names, or a listing, is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from deepobs_func.errors import ConfigError, unknown
from deepobs_func.imports import cause

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

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
        """Those of other packages, looked for once.

        Raises:
            ConfigError: one cannot be loaded, or is no entry of this kind, or has the name of another one; the message
                names the package.
        """
        if self._others is None:
            found: dict[str, T] = {}
            bringer: dict[str, str] = {}
            for point in _entry_points().select(group=self._group):
                for entry in self._loaded(point):
                    name = self._name_of(entry)
                    if name in self._own or name in found:
                        raise ConfigError(
                            f"The {self._kind} {name!r} of {_told(point)} has the name of one of "
                            f"{bringer.get(name, 'deepobs_func')}. Give it a name of its own, or uninstall one package."
                        )
                    found[name], bringer[name] = entry, _told(point)
            self._others = found
        return self._others

    def _loaded(self, point: EntryPoint) -> list[T]:
        try:
            value: Any = point.load()
        except Exception as error:  # another package's module may raise anything
            raise ConfigError(
                f"The {self._kind} of {_told(point)} cannot be loaded: {cause(error)}. Mend or uninstall that package."
            ) from error
        entries = list(value) if isinstance(value, list | tuple) else [value]
        for entry in entries:
            if not isinstance(entry, self._class):
                raise ConfigError(
                    f"The {self._kind} of {_told(point)} is {entry!r}; it must be a {self._class.__name__}, or a list "
                    "of them. Mend or uninstall that package."
                )
        return entries


def _told(point: EntryPoint) -> str:
    """An entry point, and the package that brings it."""
    package = "unknown package" if point.dist is None else f"package {point.dist.name!r}"
    return f"{package} (entry point {point.name} = {point.value})"


@functools.cache
def _entry_points() -> EntryPoints:
    """Those of all installed packages, whose files are read once."""
    from importlib import metadata  # a quarter of what `deepobs --help` would take

    found: Any = metadata.entry_points()  # in some versions of Python typed as a mapping
    return found
