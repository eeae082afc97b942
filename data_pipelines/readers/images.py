"""Where a reader's images lie: a folder, or a ZIP archive that is read in place."""

import functools
import os
import pathlib
import zipfile

from data_pipelines.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")


class ImageFolder:
    """The images below a folder, by path relative to it (`/` between the parts)."""

    def __init__(self, path: str | os.PathLike):
        """Remembers the folder; it is listed when first asked."""
        self.path = pathlib.Path(path)

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """Size in bytes of every image, by relative path; other files are not listed."""
        return dict(sorted(self._walk(self.path, "")))

    def _walk(self, folder, prefix):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    yield from self._walk(entry.path, f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(SUFFIXES):
                    yield prefix + entry.name, entry.stat().st_size

    def read(self, name: str) -> bytes:
        """The encoded bytes of an image of `sizes`."""
        with open(self.path / name, "rb") as file:
            return file.read()


class ImageArchive:
    """The images of a ZIP archive, by path relative to a folder inside it.

    Nothing is ever unpacked. Names of members are checked all the same, so that a crafted archive
    is refused instead of half read.

    Args:
        path: the archive.
        folder: leading folder that is taken off the members' names, however often it is nested.

    Raises:
        UserError: no ZIP archive, or a member whose name is absolute, leaves the archive, occurs
            twice, or which is encrypted.
    """

    def __init__(self, path: str | os.PathLike, folder: str):
        """Lists and checks the members."""
        self.path = pathlib.Path(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise UserError(f"{path}: no readable ZIP archive ({error})") from None
        self._members = {}
        for member in self._archive.infolist():
            name = self._checked(member)
            if member.is_dir() or not name.lower().endswith(SUFFIXES):
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
