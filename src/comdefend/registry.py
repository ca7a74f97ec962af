"""Registries: things by name, each registered in the file that defines it."""

import logging
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Generic, TypeVar

from comdefend.errors import RequestError, reason

log = logging.getLogger(__name__)

Thing = TypeVar("Thing")
Some = TypeVar("Some")


class Registry(Mapping[str, Thing], Generic[Thing]):
    """Things by name, in alphabetical order.

    - `package`: the package whose modules register their things; all of them are imported at the first look,
      so that a new file is all that a new thing takes.
    - `group`: the entry-point group under which other installed packages add theirs, if they can. Each entry
      point is loaded when its name is looked up. A name that is taken already is left alone, with a warning.
    """

    def __init__(self, package: str, *, group: str | None = None) -> None:
        self._package, self._group = package, group
        self._things: dict[str, Thing] = {}
        self._others: dict[str, EntryPoint] = {}
        self._complete = False

    def register(self, name: str) -> Callable[[Some], Some]:
        """Register what stands below the decorator."""

        def add(thing: Some) -> Some:
            if name in self._things:
                raise ValueError(f"{name!r} is registered twice")
            self._things[name] = thing  # type: ignore[assignment]
            return thing

        return add

    def __getitem__(self, name: str) -> Thing:
        self._complete_once()
        if name in self._others:
            entry = self._others[name]
            try:
                self._things[name] = entry.load()
            except Exception as error:  # another package's code can raise anything
                raise RequestError(f"{name!r} of {entry.value} cannot be loaded: {reason(error)}") from error
            del self._others[name]
        return self._things[name]

    def __iter__(self) -> Iterator[str]:
        self._complete_once()
        return iter(sorted([*self._things, *self._others]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _complete_once(self) -> None:
        if self._complete:
            return
        self._complete = True  # the modules that are imported look things up, too
        for module in iter_modules(import_module(self._package).__path__):
            import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=self._group) if self._group else ():
            if entry.name in self._things:
                log.warning("%s: the name %r of %s is taken", self._group, entry.name, entry.value)
            else:
                self._others[entry.name] = entry
