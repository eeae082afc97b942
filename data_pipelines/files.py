"""Paths as users write them, and files that are complete or not there."""

import contextlib
import errno
import hashlib
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


_KINDS = {
    b"<": "an HTML or XML page, as a failed download leaves one",
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` fetches the file itself",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x80": "a Python pickle, which is never loaded",
    b"%PDF": "a PDF document",
}


def other_format(path: pathlib.Path) -> str:
    """What a file is by its beginning that should be HDF5 or MATLAB's; "" if it is one of them."""
    with open(path, "rb") as file:
        start = file.read(64)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    kind = next((kind for magic, kind in _KINDS.items() if text.startswith(magic)), "")
    if start.startswith((b"\x89HDF", b"MATLAB")):
        return ""
    if kind:
        return f"it looks like {kind}"
    return f"it begins with {start[:8]!r}" if start else "it is empty"


def is_full_disk(error: BaseException) -> bool:
    """Whether an error says that a disk is full, or somebody's share of it.

    Libraries raise errors of their own, in whose text the system's words are.
    """
    numbers = (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    return getattr(error, "errno", None) in numbers or any(os.strerror(n) in text for n in numbers)


@contextlib.contextmanager
def naming(file: str | pathlib.Path) -> Iterator[None]:
    """Names the file, or folder, that the block writes, in an error of a full disk without a name.

    Raises:
        OSError: the disk is full, whatever the block raised to say so.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error) or getattr(error, "filename", None):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(file)) from error


@contextlib.contextmanager
def replacing(file: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary file beside `file`, which takes its place when the block ends well.

    Its name has the ending of `file`, by which libraries choose a format.
    """
    file = local(file)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".", suffix="-" + file.name)
    os.close(handle)
    try:
        with naming(file):
            yield pathlib.Path(name)
        os.chmod(name, 0o644)  # temporary files are their owner's alone
        os.replace(name, file)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def file_digest(file: str | os.PathLike) -> str:
    """`sha256` and the digest of a file's content."""
    with open(file, "rb") as opened:
        return f"sha256 {hashlib.file_digest(opened, 'sha256').hexdigest()}"


def write_text(file: str | pathlib.Path, text: str) -> None:
    """Writes a text file; names of files in it need not be valid UTF-8."""
    with replacing(file) as temporary:
        temporary.write_text(text, "utf-8", errors="replace")
