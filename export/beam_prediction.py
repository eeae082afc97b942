"""What an exported model says about any number of pictures, by Apache Beam.

Names of files travel; a worker reads each file, asks the model that it loaded, and writes rows. A
picture that cannot be answered is a row with the reason and stops nothing.
"""

import json
import os
import pathlib
from collections.abc import Iterable, Sequence

import apache_beam as beam
from apache_beam.ml.inference.base import ModelHandler, RunInference

from data_pipelines.files import local
from data_pipelines.records.beam import create_pipeline
from export.description import read_description
from export.rows import ModelOfRows, complete_or_gone, read


class ExportedModelHandler(ModelHandler):
    """Asks an exported model about names and bytes of files; see `ModelOfRows`.

    Args:
        model: folder of a version.
        batch_size: pictures in a call.
    """

    def __init__(self, model: str | os.PathLike, batch_size: int):
        """Loads nothing yet."""
        super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
        self._model, self._batch_size = os.fspath(model), batch_size

    def load_model(self) -> ModelOfRows:
        """The model, once in a process."""
        return ModelOfRows(self._model, self._batch_size)

    def run_inference(
        self, batch: Sequence[tuple[str, bytes]], model: ModelOfRows, inference_args=None
    ) -> Iterable[dict]:
        """A row for every picture, in order."""
        return model(batch)


def predict(
    model: str | os.PathLike,
    files: Sequence[str],
    output: str | os.PathLike,
    options: Sequence[str],
    *,
    batch_size: int = 32,
) -> list[pathlib.Path]:
    """Writes what an exported model says about files, as JSON lines in no order.

    Args:
        model: folder of a version, which all workers see.
        files: pictures, which all workers see.
        output: folder to make, for `rows-XXXXX-of-YYYYY.jsonl`.
        options: of Beam.
        batch_size: pictures in a call of the model.

    Returns:
        The files of rows.

    Raises:
        UserError: there is no such model, or something is in the folder.
    """
    version = local(model).absolute()
    read_description(version)  # Workers would find out one after another that it is missing.
    handler = ExportedModelHandler(version, batch_size)
    with complete_or_gone(output) as folder, create_pipeline(options) as pipeline:
        _ = (
            pipeline
            | "Files" >> beam.Create([os.path.abspath(file) for file in files])
            | "Share" >> beam.Reshuffle()
            | "Read" >> beam.Map(read)
            | "Ask" >> RunInference(handler)
            | "Rows" >> beam.Map(json.dumps)
            | "Write" >> beam.io.WriteToText(os.fspath(folder / "rows"), ".jsonl")
        )
    return sorted(folder.glob("rows-*.jsonl"))
