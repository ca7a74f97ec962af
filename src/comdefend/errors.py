"""The errors that a user can act on. The command line turns each into one line and an exit code."""

from importlib.util import find_spec


class RequestError(ValueError):
    """What was asked for cannot be done as asked: a bad argument, file or name. Exit code 2.

    The message names the argument or file, says what is wrong with it and what is accepted.
    """


class WorkError(RuntimeError):
    """The request was right, but the work failed on the way. Exit code 1."""


def reason(error: BaseException) -> str:
    """What an error says, in one line of at most 300 characters; of somebody else's also its type."""
    if isinstance(error, RequestError | WorkError):
        return str(error)[:300]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    # TorchScript and others put the message below a traceback of their own.
    line = lines[-1] if any("Traceback" in line for line in lines) else lines[0]
    kind = type(error).__name__
    return (line if line.startswith(f"{kind}:") else f"{kind}: {line}".removesuffix(": "))[:300]


def check_extra(extra: str, *packages: str, feature: str) -> None:
    """Raises `MissingExtraError`, before any work, where one of an extra's packages is not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(feature, extra=extra, package=package)


class MissingExtraError(RequestError):
    """A feature needs a package that the lean installation leaves out."""

    def __init__(self, feature: str, *, extra: str, package: str) -> None:
        super().__init__(
            f"{feature} needs the package \"{package}\": install it with  pip install 'comdefend[{extra}]'"
            f"  (in a clone: '.[{extra}]')"
        )
