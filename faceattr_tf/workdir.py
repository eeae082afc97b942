"""The folder of a run: all that evaluation, prediction and export need, and nothing else."""

import json
import os
import sys
import zipfile
from collections.abc import Iterable, Mapping

import numpy as np

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.files import local, naming, replacing, write_text
from data_pipelines.input.view import View
from data_pipelines.keras_settings import check_keras
from data_pipelines.tasks import Task
from faceattr_tf.configs.base import Recipe

MODEL = "model.keras"
TOP = "top.keras"
VALIDATION = "validation.npz"
LOCALISATION = "localisation.json"
VERIFICATION = "verification"


class Workdir:
    """Reads and writes the files of one run.

    | file | holds |
    |---|---|
    | `config.json` | the recipe as resolved |
    | `metadata.json` | tasks, crops, input shape, record sets, majority classes, impossible pairs of \
answers, best step |
    | `model.keras` | the best model by the recipe's validation metric |
    | `top.keras` | of a run on bottlenecks: the best layers behind them, until the run ends |
    | `calibration.json` | temperature and thresholds per task, chosen on validation |
    | `validation.npz` | labels and outputs on validation, by which answers are chosen to be unsure |
    | `localisation.json` | of an LNet, where they were chosen: how its maps become windows |
    | `verification/` | where pairs of images were judged: page, figures, threshold for two pictures |
    | `metrics.jsonl` | one row per logged step or validation |
    | `machines/` | of a run that fits support vector machines: those that are fitted |
    | `checkpoints/` | model, optimizer, step: what an interrupted run continues from |
    | `tensorboard/` | the same curves for TensorBoard |
    | `model_card.md` | data, licences, metrics, limits |
    | `train.log` | of a cell of a sweep: what its training printed |

    Every file is written to a temporary name and moved, so that an interrupted run leaves either
    the old or the new one.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = local(path)

    def __repr__(self):
        return f"Workdir({str(self.path)!r})"

    @classmethod
    def open(cls, path: str | os.PathLike) -> "Workdir":
        """The workdir of an existing run.

        Raises:
            UserError: the folder is missing or no run wrote it.
        """
        workdir = cls(path)
        if not workdir.path.is_dir():
            raise UserError(f"workdir {workdir.path} does not exist")
        for name in ("config.json", "metadata.json"):
            if not (workdir.path / name).is_file():
                raise UserError(f"workdir {path} holds no {name}: faceattr-train writes it")
        return workdir

    def recipe(self) -> Recipe:
        """The recipe as it was resolved when the run began."""
        fields = self._read_json("config.json")
        if isinstance(fields.get("data"), dict):
            # Before the field there was, shares were taken of the images.
            fields["data"].setdefault("validation_by_person", False)
        return Recipe.from_dict(fields)

    def metadata(self) -> dict:
        """Tasks, crop, framing, input shape, records, majority classes, impossible pairs, best step."""
        return self._read_json("metadata.json")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the model predicts, in the order of its heads."""
        return tuple(Task.from_dict(fields) for fields in self.metadata()["tasks"])

    @property
    def crop(self) -> Crop:
        """What the model sees of an image."""
        return self.view.crop

    @property
    def framing(self) -> dict | None:
        """How whole pictures frame their faces, see `data_pipelines.crop.framing`; None if unknown."""
        return self.metadata().get("framing")

    @property
    def view(self) -> View:
        """What the model was shown of the faces of its data."""
        return View.from_dict(self.metadata())

    def load_model(self, name: str = MODEL):
        """The best model so far, a `keras.Model` in float32 (averaged weights where used).

        Raises:
            UserError: there is no model yet, its file is damaged, or Keras is set up otherwise.
        """
        check_keras()
        import keras

        import faceattr_tf.layers  # noqa: F401 - registers what the file may hold

        file = self.path / name
        if not file.is_file():
            raise UserError(f"{file} does not exist: the run has not validated a model yet")
        try:
            return keras.saving.load_model(file, compile=False)
        except Exception as error:  # Keras raises whatever the damaged part happens to cause.
            raise UserError(f"{file} is no readable Keras model: {_first_line(error)}") from error

    def save_model(self, model, name: str = MODEL) -> None:
        """Makes `model` the best one."""
        with replacing(self.path / name) as temporary:
            model.save(temporary)

    def calibration(self, consistent: bool = False) -> dict:
        """Per task its `temperature` and, for yes/no attributes, one threshold per label.

        Args:
            consistent: also the task's pairs `impossible`, of which an answer then has to give way,
                see `faceattr_tf.evaluation.consistency`.

        Raises:
            UserError: they are asked for, and the run does not know them.
        """
        if (self.path / "calibration.json").is_file():
            found = self._read_json("calibration.json")
        else:
            found = {
                task.name: {"temperature": 1.0, "thresholds": [0.5] * len(task.labels)}
                for task in self.tasks
            }
        for name, pairs in self.impossible().items() if consistent else ():
            found[name] = {**found.get(name, {}), "impossible": pairs}
        return found

    def validation(self) -> dict:
        """What the best model says on validation: task -> labels and outputs; empty if not kept."""
        if not (self.path / VALIDATION).is_file():
            return {}
        try:
            with np.load(self.path / VALIDATION, allow_pickle=False) as stored:
                names = [key.partition("/")[2] for key in stored if key.startswith("labels/")]
                return {
                    name: (stored[f"labels/{name}"], stored[f"outputs/{name}"]) for name in names
                }
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path / VALIDATION} cannot be read: {error}") from None

    def write_validation(self, found: Mapping) -> None:
        """Keeps labels and outputs on validation, which belong to the model as it is now.

        Args:
            found: task -> labels `[N, ...]`, outputs `[N, n]`.
        """
        arrays = {f"labels/{name}": labels for name, (labels, _) in found.items()}
        arrays |= {f"outputs/{name}": outputs for name, (_, outputs) in found.items()}
        with replacing(self.path / VALIDATION) as temporary:
            np.savez_compressed(temporary, **arrays)

    def impossible(self) -> dict[str, list[dict]]:
        """Per multilabel task its `data_pipelines.input.impossible_pairs`, and a note if none has any.

        Raises:
            UserError: the run does not know them.
        """
        pairs = self.metadata().get("impossible")
        if pairs is None:
            raise UserError(
                f"workdir {self.path} does not know which answers exclude each other, as runs of "
                "earlier versions do not; faceattr-train with the flags that it was trained with "
                "counts them, without further training (a joined run: faceattr-join, once more)"
            )
        if not any(pairs.values()):
            print(
                f"{self.path}: no pair of yes/no answers is impossible by the labels of training; "
                "answers stay as they are",
                file=sys.stderr,
            )
        return pairs

    def localisation(self) -> dict:
        """What was chosen for finding faces, see `faceattr_tf.prediction.localisation.Stage`."""
        if not (self.path / LOCALISATION).is_file():
            return {}
        fields = self._read_json(LOCALISATION)
        if not isinstance(fields, dict):
            raise UserError(f"{self.path / LOCALISATION}: expected names with values, as an object")
        return fields

    def verification(self) -> dict:
        """What `faceattr_tf.reports.verification` measured last; empty if it never did."""
        name = f"{VERIFICATION}/{VERIFICATION}.json"
        return self._read_json(name) if (self.path / name).is_file() else {}

    def metrics_log(self) -> list[dict]:
        """The rows of `metrics.jsonl`, oldest first; a last row cut short by a crash is left out."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        rows = []
        for line in file.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def write_metrics_log(self, rows: Iterable[dict]) -> None:
        """Replaces `metrics.jsonl`."""
        self.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def append_metrics(self, row: dict) -> None:
        """Adds a row to `metrics.jsonl`."""
        file = self.path / "metrics.jsonl"
        with naming(file), open(file, "a") as opened:
            opened.write(json.dumps(row) + "\n")

    def write_json(self, name: str, value) -> None:
        """Writes `value` as the JSON file `name`."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes the text file `name`."""
        write_text(self.path / name, text)

    def _read_json(self, name: str):
        file = self.path / name
        try:
            return json.loads(file.read_text())
        except FileNotFoundError:
            raise UserError(f"workdir {self.path} holds no {name}") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is no JSON: {error}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
