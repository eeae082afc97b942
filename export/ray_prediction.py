"""What an exported model says about any number of pictures, by Ray Data: the rows of Apache Beam.

Names of files travel; an actor reads the files, asks the model that it loaded, and gives rows.
"""

import json
import logging
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import ray
from ray.data.datasource import BlockBasedFileDatasink

from data_pipelines.files import local
from export.description import read_description
from export.rows import ModelOfRows, complete_or_gone, read

ROWS = 10_000
"""How many a file has at least, where there are as many."""


class Asker:
    """Asks an exported model about files; see `ModelOfRows`."""

    def __init__(self, model: str, batch_size: int):
        """Loads it, once in an actor."""
        self._model = ModelOfRows(model, batch_size)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[str]]:
        """Names `file`, in the bytes of the file system, to JSON of their rows."""
        rows = self._model([read(os.fsdecode(name)) for name in batch["file"]])
        return {"row": [json.dumps(row) for row in rows]}


class RowFiles(BlockBasedFileDatasink):
    """Files of JSON lines; a task that is tried again writes the same one again."""

    def write_block_to_file(self, block, file) -> None:
        """Writes the rows of a task."""
        file.write("".join(f"{row}\n" for row in block.to_arrow()["row"].to_pylist()).encode())


def predict(
    model: str | os.PathLike,
    files: Sequence[str],
    output: str | os.PathLike,
    actors: int,
    *,
    batch_size: int = 32,
) -> list[pathlib.Path]:
    """Writes what an exported model says about files, as JSON lines in no order.

    The cluster is that of `RAY_ADDRESS`, else one that is started on this machine.

    Args:
        model: folder of a version, which all actors see.
        files: pictures, which all actors see.
        output: folder to make, which all actors see, for `rows_*.jsonl`.
        actors: how many ask at a time, each with a model of its own.
        batch_size: pictures in a call of the model.

    Returns:
        The files of rows.

    Raises:
        UserError: there is no such model, or something is in the folder.
    """
    version = local(model).absolute()
    read_description(version)  # Actors would find out one after another that it is missing.
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}
    ray.init(**quiet, ignore_reinit_error=True)
    ray.data.DataContext.get_current().enable_progress_bars = False
    names = [{"file": os.fsencode(os.path.abspath(file))} for file in files]
    with complete_or_gone(output) as folder:
        target = {"dataset_uuid": "rows", "file_format": "jsonl", "min_rows_per_file": ROWS}
        # Actors may hold all processors of a cluster to the end; writing does not wait for one.
        writing = {"num_cpus": 0}
        ray.data.from_items(names).map_batches(
            Asker,
            fn_constructor_args=(os.fspath(version), batch_size),
            batch_size=batch_size,
            compute=ray.data.ActorPoolStrategy(size=actors),
        ).write_datasink(RowFiles(os.fspath(folder), **target), ray_remote_args=writing)
    return sorted(folder.glob("rows_*.jsonl"))
