"""Keras as this project needs it, whatever `keras.json` and the environment ask for.

Commands set what they need; from Python the settings are the caller's, and only checked.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Iterator

from data_pipelines.errors import UserError

NEEDED = {"backend": "tensorflow", "image_data_format": "channels_last", "floatx": "float32"}


def settings_file() -> pathlib.Path:
    """Where Keras looks for its settings."""
    home = pathlib.Path("~").expanduser()
    folder = home / ".keras" if os.access(home, os.W_OK) else "/tmp/.keras"
    return pathlib.Path(os.environ.get("KERAS_HOME", folder)).expanduser() / "keras.json"


def configured() -> dict[str, tuple[str, str]]:
    """What a user has set: name of `NEEDED` to value and place, without importing Keras."""
    file = settings_file()
    try:
        stored = json.loads(file.read_text())
    except (OSError, ValueError):  # Keras ignores what is no JSON
        stored = {}
    found = {name: (stored[name], str(file)) for name in NEEDED if name in stored}
    if os.environ.get("KERAS_BACKEND"):
        found["backend"] = os.environ["KERAS_BACKEND"], "KERAS_BACKEND"
    return found


def set_keras() -> str:
    """Gives Keras the settings that are needed; to be called before anything imports it.

    Returns:
        A line that says what was set otherwise; empty where nothing was.

    Raises:
        UserError: Keras refuses its settings file.
    """
    others = {name: found for name, found in configured().items() if found[0] != NEEDED[name]}
    if not others:
        return ""
    os.environ["KERAS_BACKEND"] = NEEDED["backend"]
    if others.keys() - {"backend"}:
        try:
            import keras
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{settings_file()}: {error}") from None
        keras.config.set_image_data_format(NEEDED["image_data_format"])
        keras.config.set_floatx(NEEDED["floatx"])
    instead = ", ".join(f"{value} of {place}" for value, place in others.values())
    return f"Keras runs with {', '.join(NEEDED[name] for name in others)} instead of {instead}"


def prepare_keras() -> None:
    """`set_keras` for a command, which says on standard error what it has set."""
    if said := set_keras():
        print(said, file=sys.stderr)


@contextlib.contextmanager
def without_keras() -> Iterator[None]:
    """TensorFlow that is imported inside leaves Keras out, which takes it two of six seconds.

    For programs that need no network. Keras can still be imported later, `tensorflow.keras` not.
    """
    name = "TF_USE_LEGACY_KERAS"  # asks for a package that is rarely installed
    if name in os.environ or importlib.util.find_spec("tf_keras"):
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]


def check_keras(*names: str) -> None:
    """Makes sure that Keras has the settings that are needed.

    Args:
        *names: of `NEEDED`; none for all.

    Raises:
        UserError: one of them is another.
    """
    import keras

    for name in names or NEEDED:
        found = getattr(keras.config, name)()
        if found != NEEDED[name]:
            raise UserError(
                f"Keras' {name} is {found}; expected {NEEDED[name]}, which {settings_file()} or, "
                "for the backend, KERAS_BACKEND sets before Keras is imported"
            )
