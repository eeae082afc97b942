"""How every command of this project begins and ends: its help, and status 0 or one line of error."""

import argparse
import importlib.util
import pathlib
import re
import shutil
import sys
from collections.abc import Callable

from data_pipelines.commands.native_log import without_chatter


def command_parser(name: str, description: str, examples: str = "") -> argparse.ArgumentParser:
    """A parser of flags that are written in full; its help shows both texts as they stand."""
    return argparse.ArgumentParser(
        name,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def require_beam(flag: str) -> None:
    """Raises UserError where Apache Beam, which a flag asks for, is not installed."""
    _require(
        "apache_beam",
        f"{flag} needs pip install 'faceattr_tf[beam]', in an environment of its own, as Apache "
        "Beam wants an older protobuf than TensorFlow would bring",
    )


def require_ray(flag: str) -> None:
    """Raises UserError where Ray Data, which a flag asks for, is not installed."""
    _require("ray", f"{flag} needs pip install 'faceattr_tf[ray]'")


def _require(package: str, text: str) -> None:
    if importlib.util.find_spec(package) is None:
        from data_pipelines.errors import UserError

        raise UserError(text)


def run_command(name: str, main: Callable[[], object]) -> int:
    """Runs a command's work and turns a user's mistake into one line without a traceback.

    Args:
        name: the name of the command, which starts the line.
        main: the work; what it returns is ignored.

    Returns:
        The exit status: 0 done, 1 a mistake or something that the system refuses (a missing or
        read-only path, a full disk), 130 interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        _escape_what_it_cannot_hold(stream)
    with without_chatter():
        return _run(name, main)


def _escape_what_it_cannot_hold(stream) -> None:
    """Names of files need not be UTF-8, and a terminal need not be either: no output may fail."""
    if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
        stream.reconfigure(errors="backslashreplace")


def _run(name: str, main: Callable[[], object]) -> int:
    try:
        main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        sys.stdout = None
        return 0
    except Exception as error:
        text = _one_line(error)
        if text is None:
            raise
        print(f"{name}: error: {text}", file=sys.stderr)
        return 1
    return 0


def _one_line(error: Exception) -> str | None:
    """What to say about an error that is not a defect of the program, None for all others."""
    from data_pipelines.errors import UserError
    from data_pipelines.files import is_full_disk

    if isinstance(error, UserError):
        return str(error)
    if is_full_disk(error):
        return _of_a_full_disk(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if "tensorflow" in sys.modules:
        errors = sys.modules["tensorflow"].errors
        refused = (errors.PermissionDeniedError, errors.ResourceExhaustedError)
        if isinstance(error, refused):
            return _without_node(error.message)
    return None


def _of_a_full_disk(error: Exception) -> str:
    """Which file has no space and how much there is; half-written files are removed by now."""
    if not getattr(error, "filename", None):
        return _without_node(getattr(error, "strerror", None) or str(error))
    file = pathlib.Path(error.filename).absolute()
    folder = next(path for path in (file, *file.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free / 1e6
    return (
        f"{error.filename}: {error.strerror}, {free:,.1f} MB are free there; "
        "make room and run the same again"
    )


def _without_node(message: str) -> str:
    """The first line of a message, without the node of a graph that TensorFlow puts before it."""
    return re.sub(r"^\{\{.*?\}\} *", "", message.splitlines()[0])
