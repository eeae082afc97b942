"""What an exported model says about files, as rows for tables: without a server."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import local, naming
from data_pipelines.formats.encoded import upright
from export.description import NO_IMAGE, named, read_description


class ModelOfRows:
    """The signature `serving_default` of an exported model.

    Each call holds the same number of pictures, the last one repeated where there are fewer, since
    kernels for other numbers may differ in the last digit: a row does not depend on who is beside
    it. For the same reason a call with a damaged picture is made again without it.

    Args:
        model: folder of a version.
        batch_size: pictures in a call.

    Raises:
        UserError: there is no such model.
    """

    def __init__(self, model: str | os.PathLike, batch_size: int):
        """Loads it."""
        self._description, self._batch_size = read_description(model), batch_size
        import tensorflow as tf

        self._loaded = tf.saved_model.load(os.fspath(model))

    def __call__(self, batch: Sequence[tuple[str, bytes]]) -> list[dict]:
        """A row for every picture, in order.

        Args:
            batch: name and bytes of files, of at most as many as belong into a call.

        Returns:
            `{"file": name}` with what `description.named` makes of the answer, or with `error`.
        """
        rows, sent = [{"file": name} for name, _ in batch], {}
        for place, (_, data) in enumerate(batch):
            try:
                sent[place] = upright(data, self._description["max_pixels"])
            except UserError as error:
                rows[place]["error"] = str(error)
        while sent:
            outputs = self._ask(list(sent.values()))
            valid = outputs.pop("valid")
            bad = [place for row, place in enumerate(sent) if not valid[row]]
            for place in bad:
                rows[place]["error"] = NO_IMAGE
                del sent[place]
            if not bad:
                for row, place in enumerate(sent):
                    own = {name: values[row] for name, values in outputs.items()}
                    rows[place] |= named(own, self._description)
                break
        return rows

    def _ask(self, contents: list[bytes]) -> dict[str, np.ndarray]:
        import tensorflow as tf

        contents += contents[-1:] * (self._batch_size - len(contents))
        answer = self._loaded.signatures["serving_default"](image_bytes=tf.constant(contents))
        return {name: values.numpy() for name, values in answer.items()}


def read(name: str) -> tuple[str, bytes]:
    """Name and bytes of a file; no bytes where it cannot be read."""
    try:
        return name, pathlib.Path(name).read_bytes()
    except OSError:
        return name, b""


@contextlib.contextmanager
def complete_or_gone(output: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A folder to make, which is removed where the block fails: engines leave parts of rows there.

    Raises:
        UserError: something is in it.
    """
    folder = local(output).absolute()
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{output}: is not empty; expected a folder to make")
    try:
        with naming(folder):
            yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
