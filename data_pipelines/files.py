"""Paths as users write them, and files that are complete or not there."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from data_pipelines.errors import UserError


def local(path: str | os.PathLike) -> pathlib.Path:
    """The path that a user wrote, with `~` expanded, which a shell does not do in `--flag=~/x`.

    Every path that somebody gives passes through here before anything is written.

    Raises:
        UserError: it is an address, such as `gs://bucket/x`, and no path of this machine.
    """
    text = os.fspath(path)
    # `pathlib` makes `gs:/x` of `gs://x`.
    if scheme := re.match(r"[A-Za-z][A-Za-z0-9+.-]+(?=:/)", text):
        raise UserError(
            f"{text}: {scheme[0]}: is not read or written here; expected a path of this machine, "
            "such as one where that storage is mounted or was copied to"
        )
    return pathlib.Path(os.path.expanduser(text))


@contextlib.contextmanager
def replacing(file: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary file beside `file`, which takes its place when the block ends well.

    Its name has the ending of `file`, by which libraries choose a format.
    """
    file = local(file)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix="-" + file.name)
    os.close(handle)
    try:
        yield pathlib.Path(name)
        os.chmod(name, 0o644)  # temporary files are their owner's alone
        os.replace(name, file)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def write_text(file: str | pathlib.Path, text: str) -> None:
    """Writes a text file; names of files in it need not be valid UTF-8."""
    with replacing(file) as temporary:
        temporary.write_text(text, "utf-8", errors="replace")
