"""`PATH.py:FACTORY`: someone else's classifier or purifier, made by a function of their file."""

import builtins
import importlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location, spec_from_loader
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, overload

from torch import nn

from comdefend.errors import RequestError, reason

_FORM = re.compile(r"^(?P<path>.+\.py):(?P<factory>[A-Za-z_]\w*)$")

_UNFINISHED = re.compile(r"^[^:]+\.py(:.*)?$")
"""A file without its function, or with what cannot be the name of one."""

INSTALLED = tuple(sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib"))
"""Folders of the interpreter and of installed packages."""

_NUMBERS = count(1)


def is_factory(reference: str) -> bool:
    """Whether a reference names a Python file; `load_factory` refuses one without a function."""
    return (_FORM.match(reference) or _UNFINISHED.match(reference)) is not None


@overload
def load_factory(reference: str, *, functions: Literal[False] = False) -> nn.Module: ...


@overload
def load_factory(reference: str, *, functions: Literal[True]) -> Any: ...


def load_factory(reference: str, *, functions: bool = False) -> Any:
    """Import the file and call the function without arguments; what it made is in evaluation mode.

    The file's folder is importable from within, at any time and with names that installed packages have too;
    no other file sees what was imported from there. What is printed goes to standard error. With `functions`
    it may return a function of images instead of a module.

    Raises `RequestError` where the file, the function or what it returns is not as needed.
    """
    match = _FORM.match(reference)
    if match is None:
        file = reference.partition(":")[0]
        raise RequestError(
            f"{reference!r} does not have the form PATH.py:FACTORY: write {file}:FACTORY, with the name of a "
            "function of that file, which takes no arguments and returns the module"
        )
    path = Path(match["path"])
    if not path.is_file():
        raise RequestError(f"{reference!r}: there is no file {str(path)!r}")
    imports = _Imports(path.resolve().parent)
    try:
        with imports.loading(), redirect_stdout(sys.stderr):  # standard output is ours
            module = imports.run(path.resolve())
            factory = getattr(module, match["factory"], None)
            if not callable(factory):
                raise RequestError(f"{reference!r}: {path.name} has no function {match['factory']!r}")
            made = factory()
            if isinstance(made, nn.Module):
                made.eval()
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        raise RequestError(f"{reference!r} failed: {reason(error)}") from error
    if not isinstance(made, nn.Module) and not (functions and callable(made)):
        needed = "a torch.nn.Module" + (" or a function of images" if functions else "")
        raise RequestError(f"{reference!r} returned a {type(made).__name__}; {needed} is needed")
    return made


class _Imports(MetaPathFinder):
    """What the files of one factory import, as if Python had been started in their folder.

    Their modules live in a package with a name that nobody else uses, and stay there: classes can be pickled,
    annotations resolved. `import model` in one of them goes through `_import`, which looks there first.
    """

    def __init__(self, folder: Path) -> None:
        self.package = f"comdefend_user_{next(_NUMBERS)}"
        self.folders = [str(folder)]
        self.builtins = {**vars(builtins), "__import__": self._import}
        self.path_before: list[str] | None = None  # None: not loading
        self.plain: list[str] = []
        root = ModuleType(self.package)
        root.__path__ = self.folders
        sys.modules[self.package] = root
        sys.meta_path.insert(0, self)
        importlib.invalidate_caches()

    def run(self, path: Path) -> ModuleType:
        """Execute a file as a module of the package."""
        name = f"{self.package}.{path.stem.replace('.', '_')}"
        loader = _Source(name, str(path), self.builtins)
        spec = spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        sys.modules[name] = module = module_from_spec(spec)
        loader.exec_module(module)
        return module

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Inside, everybody finds the modules by their plain names too, as `importlib.import_module("model")`
        and pickles of whole networks do. What the files add to `sys.path` is searched for them alone.
        """
        self.path_before = list(sys.path)
        tops = {name.partition(".")[0] for name in sys.modules}
        hidden = {top for top in tops if self._is_own(top) and not _is_installed(top)}
        taken = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in hidden}
        for name in taken:
            del sys.modules[name]
        try:
            yield
        except BaseException:
            sys.meta_path.remove(self)
            for name in [n for n in sys.modules if n.partition(".")[0] == self.package]:
                del sys.modules[name]
            raise
        finally:
            self._follow_path()
            # What an installed package adds, it may need later.
            sys.path[:] = [*self.path_before, *_added(self.path_before, installed=True)]
            self.path_before = None
            for name in self.plain:
                sys.modules.pop(name, None)
            sys.modules.update(taken)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        top = fullname.partition(".")[0]
        if top == self.package:
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and type(spec.loader) is SourceFileLoader:
                spec.loader = _Source(fullname, spec.loader.path, self.builtins)
            return spec
        if self.path_before is None or not self._is_own(top) or _is_installed(top):
            return None
        self.plain.append(fullname)
        return spec_from_loader(fullname, _Same(importlib.import_module(f"{self.package}.{fullname}")))

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """The built-in `__import__` of their modules."""
        top = name.partition(".")[0]
        if level or not self._is_own(top):
            return __import__(name, globals, locals, fromlist or (), level)
        module = __import__(f"{self.package}.{name}", globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{self.package}.{top}"]

    def _is_own(self, top: str) -> bool:
        """Whether a name stands for one of their files, as it would for Python in their folder: not where a
        part of the interpreter has it, nor where that very file is a module of the program already.
        """
        if BuiltinImporter.find_spec(top) or FrozenImporter.find_spec(top):
            return False
        self._follow_path()
        spec = PathFinder.find_spec(f"{self.package}.{top}", self.folders)
        if spec is None:
            return False
        if spec.origin is None:  # a folder without __init__.py, such as one of data, gives way to packages
            return top not in sys.modules and PathFinder.find_spec(top) is None
        return getattr(sys.modules.get(top), "__file__", None) != spec.origin

    def _follow_path(self) -> None:
        if self.path_before is not None:
            self.folders[1:] = map(os.path.abspath, _added(self.path_before, installed=False))


class _Source(SourceFileLoader):
    """Loads a file whose code has built-in functions of its own."""

    def __init__(self, name: str, path: str, builtins: dict[str, Any]) -> None:
        super().__init__(name, path)
        self.builtins = builtins

    def exec_module(self, module: ModuleType) -> None:
        vars(module)["__builtins__"] = self.builtins
        super().exec_module(module)


class _Same(Loader):
    """Gives a name to a module that is loaded already."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:  # noqa: ARG002
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _is_installed(top: str) -> bool:
    """Whether the interpreter or a package that is installed has a module of this name: other code than
    theirs may mean that one.
    """
    installed = [entry for entry in sys.path if entry.startswith(INSTALLED)]
    return top in sys.stdlib_module_names or PathFinder.find_spec(top, installed) is not None


def _added(before: Sequence[str], *, installed: bool) -> list[str]:
    """Entries of `sys.path` since it was as `before`, of installed packages or others."""
    return [p for p in sys.path if p not in before and p.startswith(INSTALLED) == installed]
