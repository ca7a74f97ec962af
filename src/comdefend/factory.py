"""`PATH.py:FACTORY`: someone else's classifier or purifier, made by a function of their file."""

import importlib.util
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path

from torch import nn

from comdefend.errors import RequestError

_FORM = re.compile(r"^(?P<path>.+\.py):(?P<factory>[A-Za-z_]\w*)$")


def is_factory(reference: str) -> bool:
    return _FORM.match(reference) is not None


def load_factory(reference: str) -> nn.Module:
    """Import the file and call the function without arguments; what it made is in evaluation mode.

    The file's folder is importable from within, and what it prints goes to standard error.

    Raises `RequestError` where the file, the function or what it returns is not as needed.
    """
    match = _FORM.match(reference)
    if match is None:
        raise RequestError(f"{reference!r} does not have the form PATH.py:FACTORY")
    path = Path(match["path"])
    if not path.is_file():
        raise RequestError(f"{reference!r}: there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(f"comdefend_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    try:
        with redirect_stdout(sys.stderr):  # standard output is ours
            spec.loader.exec_module(module)
            factory = getattr(module, match["factory"], None)
            if not callable(factory):
                raise RequestError(f"{reference!r}: {path.name} has no function {match['factory']!r}")
            made = factory()
            if isinstance(made, nn.Module):
                made.eval()
    except RequestError:
        raise
    except (Exception, SystemExit) as error:
        raise RequestError(f"{reference!r} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not isinstance(made, nn.Module):
        raise RequestError(f"{reference!r} returned a {type(made).__name__}; a torch.nn.Module is needed")
    return made
