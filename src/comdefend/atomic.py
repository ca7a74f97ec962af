"""Files that hold their old content or all of the new, never half: written aside, then renamed. And folders
that are there before the work that fills them, and gone again where it left nothing.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from comdefend.errors import RequestError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to instead of `path`; it takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp's files are for their owner alone
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """The folder for what a block writes, made before it. Where the block fails, what was made is taken away
    again unless something is in it. Raises `RequestError` where there can be no such folder.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise RequestError(f"output {str(folder)!r} cannot be a folder: {reason}") from error
    try:
        yield
    except BaseException:
        for path in made:
            with suppress(OSError):
                path.rmdir()
        raise


def write_json(path: Path, content: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
