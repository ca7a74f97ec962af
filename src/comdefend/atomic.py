"""Files that hold their old content or all of the new, never half: written aside, then renamed. And folders
that are there before the work that fills them, belong to one process at a time, and are gone again where it
left nothing.
"""

import fcntl
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from comdefend.errors import RequestError

LOCK = ".comdefend.lock"
"""The file in an output folder that says who is at work there."""


@contextmanager
def replacing(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """A path to write to instead of `path`; it takes its place when the block ends without an error.

    With `exclusive`, raises `RequestError` where `path` exists by then: what another process wrote stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's files are for their owner alone
        if exclusive:
            _link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name unless something has it: a rename replaces what is there, a hard link does not."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if os.path.lexists(path):
            raise RequestError(f"{str(path)!r} exists already: another process wrote it meanwhile") from error
        temporary.replace(path)  # a file system without hard links


def check_writable(folder: Path) -> None:
    """Raises `RequestError` where a folder cannot be made, or no file in it. Nothing is left behind."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise _no_folder(folder, error) from error


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """The folder for what a block writes, made before it and locked while it runs. What was made is taken
    away again where nothing is in it after the block.

    Raises `RequestError` where there can be no such folder, nothing can be written to it, or another process
    is at work in it. The lock of a process that died does not count.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = _lock(folder)
        except OSError as error:
            raise _no_folder(folder, error) from error
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            file.close()
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def _lock(folder: Path) -> TextIO:
    """The folder's lock file, held by this process: the kernel lets go of it when the process ends."""
    while True:
        file = (folder / LOCK).open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            raise RequestError(
                f"output {str(folder)!r}: {holder} is at work there; wait for its end, or give another folder"
            ) from error
        except OSError:  # a file system without locks
            pass
        if os.fstat(file.fileno()).st_nlink:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            return file
        file.close()  # who held it ended between our opening and locking it, and took the file away


def _no_folder(folder: Path, error: OSError) -> RequestError:
    above = next((p for p in (folder, *folder.parents) if os.path.lexists(p) and not p.is_dir()), None)
    if above == folder:
        reason = "it is a file"
    elif above is not None:
        reason = f"{str(above)!r} is a file"
    else:
        reason = error.strerror or str(error)
    return RequestError(f"output {str(folder)!r} cannot be a folder that is written to: {reason}")


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
