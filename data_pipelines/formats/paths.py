"""Paths that a data set's tables name: never trusted."""

import os
import re

from data_pipelines.errors import UserError


def relative_path(text: str, where: str, root: str | os.PathLike | None = None) -> str:
    """A path below the image root, with `/` between its parts whatever the table wrote.

    Args:
        text: the path as the table writes it; backslashes count as separators.
        where: file and row, for the message.
        root: the folder of images; an absolute path below it is taken relative to it.

    Raises:
        UserError: it is empty, leaves the root, or is absolute and not below it.
    """
    path = text.strip().replace("\\", "/")
    if root is not None:
        path = path.removeprefix(os.path.abspath(root) + "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or re.match("[A-Za-z]:/", path):
        below = f" {root}" if root is not None else ""
        raise UserError(f"{where}: {text!r} is an absolute path, and not below the folder{below}")
    if not parts or ".." in parts or "\0" in path:
        raise UserError(f"{where}: {text!r} is no path below the folder of images")
    return "/".join(parts)
