"""Paths that a data set's tables name: never trusted."""

from data_pipelines.errors import UserError


def relative_path(text: str, where: str) -> str:
    """A path below the image root, with `/` between its parts whatever the table wrote.

    Args:
        text: as the table writes it; backslashes count as separators.
        where: file and row, for the message.

    Raises:
        UserError: it is empty, absolute or leaves the root.
    """
    path = text.strip().replace("\\", "/")
    parts = path.split("/")
    if ":" in parts[0] or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{where}: {text!r} is no path relative to the folder of images")
    return path
