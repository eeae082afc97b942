"""Folders of versions: `<folder>/<name>/<version>/`, each complete or not there.

Files of other runtimes lie in `<folder>/<name>/<version>-runtimes/`: TensorFlow Serving takes what
has a number for a name as a version of its own, and leaves everything else alone.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.files import local, naming

RUNTIMES = "-runtimes"
"""What stands behind the number in the name of a folder with files of other runtimes."""

FILES_NAME = "assets.extra/files.json"
"""In the folder of a version, the sizes of its files, by which an incomplete copy is known."""


def folder_of_model(folder: str | Path, name: str, version: int | None) -> Path:
    """Where the versions of a model lie.

    Args:
        folder: where models are exported to.
        name: name of the model.
        version: the number that a version is to have; None for the one after the highest.

    Raises:
        UserError: a bad name or version, or a version that exists.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise UserError(f"name {name!r}: expected letters, digits, '_', '-' and '.' only")
    if version is not None and version < 1:
        raise UserError(f"version {version}: expected a positive whole number")
    parent = local(folder) / name
    for taken in (parent / f"{version}", parent / f"{version}{RUNTIMES}"):
        if version is not None and taken.exists():
            raise UserError(f"{taken} exists already: choose another version")
    return parent


@contextlib.contextmanager
def preparing(parent: Path) -> Iterator[Path]:
    """A folder beside the versions of a model, under a name that TensorFlow Serving ignores.

    What is still there in the end is removed, with the folders that were made for it.
    """
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with naming(parent), tempfile.TemporaryDirectory(dir=parent, prefix=".export-") as folder:
            yield Path(folder)
    finally:
        for path in made:  # empty only where the export failed
            with contextlib.suppress(OSError):
                path.rmdir()


def latest_version(parent: Path) -> Path | None:
    """The folder of a model's highest version; None where it has none."""
    versions = [path for path in parent.iterdir() if path.name.isdecimal()]
    return max(versions, key=lambda path: int(path.name), default=None)


def publish(prepared: Path, parent: Path, version: int | None, ending: str = "") -> Path:
    """Gives a finished export its number; of two exports at once both get one of their own.

    Args:
        prepared: the folder, complete.
        parent: where the versions of the model lie.
        version: its number; None takes the one after the highest.
        ending: what stands behind the number, `RUNTIMES` or nothing.
    """
    while True:
        target = parent / f"{version or _highest(parent) + 1}{ending}"
        try:
            os.rename(prepared, target)
        except OSError as error:
            if not target.exists():
                raise
            if version is not None:
                raise UserError(f"{target} exists already: choose another version") from error
        else:
            return target


def _highest(parent: Path) -> int:
    names = [path.name.removesuffix(RUNTIMES) for path in parent.iterdir()]
    return max((int(name) for name in names if name.isdecimal()), default=0)
