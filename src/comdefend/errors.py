"""The errors that a user can act on. The command line turns each into one line and an exit code."""


class RequestError(ValueError):
    """What was asked for cannot be done as asked: a bad argument, file or name. Exit code 2.

    The message names the argument or file, says what is wrong with it and what is accepted.
    """


class WorkError(RuntimeError):
    """The request was right, but the work failed on the way. Exit code 1."""


class MissingExtraError(RequestError):
    """A feature needs a package that the lean installation leaves out."""

    def __init__(self, feature: str, *, extra: str, package: str) -> None:
        super().__init__(
            f"{feature} needs the package \"{package}\": install it with  pip install 'comdefend[{extra}]'"
        )
