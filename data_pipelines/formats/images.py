"""Where pictures lie: a folder, or a ZIP archive that is read in place; and whether they decode."""

import collections
import functools
import os
import pathlib
import zipfile
from collections.abc import Iterator

from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import readable, unread

HIDDEN = "hidden or system files and folders"
_SYSTEM = {"__macosx", "thumbs.db", "desktop.ini"}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system or an editor, not to the data."""
    return name.startswith(".") or name.lower() in _SYSTEM


class ImageFolder:
    """The pictures below a folder, by path relative to it (`/` between the parts).

    Links to folders are followed, but never back into a folder that is being listed.

    Attributes:
        left_out: once `sizes` was asked, what kinds of files were passed over, and how many each.
    """

    def __init__(self, path: str | os.PathLike):
        """Remembers the folder; it is listed when first asked."""
        self.path = pathlib.Path(path)
        self.left_out: collections.Counter[str] = collections.Counter()

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Size in bytes of every picture, by relative path."""
        return dict(sorted(self._walk(self.path, "", (os.path.realpath(self.path),))))

    def _walk(self, folder, prefix, above) -> Iterator[tuple[str, int]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    self.left_out[HIDDEN] += 1
                elif entry.is_dir():
                    real = os.path.realpath(entry.path)
                    if real in above:
                        self.left_out["links to a folder that they lie in"] += 1
                    else:
                        yield from self._walk(entry.path, f"{prefix}{entry.name}/", (*above, real))
                elif not readable(entry.name):
                    self.left_out[unread(entry.name)] += 1
                else:
                    try:
                        yield prefix + entry.name, entry.stat().st_size
                    except FileNotFoundError:
                        self.left_out["links to files that are not there"] += 1

    def read(self, name: str) -> bytes:
        """The encoded bytes of an image of `sizes`."""
        with open(self.path / name, "rb") as file:
            return file.read()


class ImageArchive:
    """The pictures of a ZIP archive, by path relative to a folder inside it.

    Nothing is ever unpacked. Names of members are checked all the same, so that a crafted archive
    is refused instead of half read.

    Args:
        path: the archive.
        folder: leading folder that is taken off the members' names, however often it is nested.

    Attributes:
        left_out: what kinds of members were passed over, and how many each.

    Raises:
        UserError: no ZIP archive, or a member whose name is absolute, leaves the archive, occurs
            twice, or which is encrypted.
    """

    def __init__(self, path: str | os.PathLike, folder: str):
        """Lists and checks the members."""
        self.path = pathlib.Path(path)
        self.left_out: collections.Counter[str] = collections.Counter()
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path}: no readable ZIP archive ({error})") from None
        self._members = {}
        for member in self._archive.infolist():
            name = self._checked(member)
            if member.is_dir():
                continue
            if any(map(is_hidden, name.split("/"))):
                self.left_out[HIDDEN] += 1
                continue
            if not readable(name):
                self.left_out[unread(name)] += 1
                continue
            while name.startswith(f"{folder}/"):
                name = name.removeprefix(f"{folder}/")
            if name in self._members:
                raise UserError(f"{path}: member {member.filename!r} occurs twice")
            self._members[name] = member
        self.sizes = {name: self._members[name].file_size for name in sorted(self._members)}

    def _checked(self, member: zipfile.ZipInfo) -> str:
        name = member.filename
        parts = name.rstrip("/").split("/")
        if "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
            raise UserError(f"{self.path}: member {name!r} is no plain relative path")
        if member.flag_bits & 1:
            raise UserError(f"{self.path}: member {name!r} is encrypted")
        return name

    def read(self, name: str) -> bytes:
        """The encoded bytes of an image of `sizes`.

        Raises:
            zipfile.BadZipFile: the member's checksum is wrong.
        """
        return self._archive.read(self._members[name])


def decodes(data: bytes) -> bool:
    """Whether an encoded JPEG or PNG decodes to its end.

    TensorFlow's decoder is asked because training uses it, and because it refuses a JPEG that was
    cut off, which OpenCV fills with grey.
    """
    import tensorflow as tf

    try:
        if data[:2] == b"\xff\xd8":
            tf.io.decode_jpeg(data, channels=3, ratio=8)  # reads every bit, computes few pixels
        else:
            tf.io.decode_png(data, channels=3)
    except tf.errors.OpError:
        return False
    return True
