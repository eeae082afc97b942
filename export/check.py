"""Checks of an export: it must answer as the workdir does, and no worse than the version before."""

import dataclasses
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.keras_settings import without_keras
from export.description import FACE_BOX
from export.drawn_requests import draw_requests
from export.examples import Examples, examples_of, expected_answers, page_of_faces, picture_files
from export.scores import (
    measures,
    refuse_if_worse,
    refuse_if_worst_is_worse,
    said_of,
    scores,
    slice_scores,
)
from faceattr_tf.evaluation.consistency import BEYOND
from faceattr_tf.evaluation.slices import make_slicings, read_slice_labels
from faceattr_tf.reports.tables import Table

EXACT = 1e-4
"""Largest difference from the workdir's outputs in float32, relative to outputs beyond 1."""

TOLERANCES = {"bfloat16": 0.1, "float16": 0.02}
"""The same in other precisions."""

CHANGED = 0.01
"""Share of labels that another precision may change."""

CLOSE = 1e-5
"""A probability so close to its threshold has no label that two engines must agree on."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """How an export's signature differs from the workdir on a page of images.

    Attributes:
        signature: name of the export's signature.
        images: on the page.
        unreadable: those of them that the export did not take.
        largest: largest difference of an output, relative to outputs beyond 1.
        output: the output with it.
        labels: compared.
        changed: those of them that differ though their probability is not `CLOSE` to the threshold,
            or to what makes it unsure.
        moved: images in which a face lies elsewhere; nothing else of these is compared. Where a
            response is very close to what bounds a window, the order of sums decides.
    """

    signature: str
    images: int
    unreadable: int
    largest: float
    output: str
    labels: int
    changed: int
    moved: int = 0


@dataclasses.dataclass(frozen=True)
class Check:
    """What an export has to pass before it is published.

    Attributes:
        images: folder of pictures to compare on; empty for drawn faces.
        records: a record set on which it is compared with the version that it would replace.
        split: the split of these records.
        margin: percentage points of mean balanced accuracy that it may lose there, and that its
            answers may be wrong more often, see `export.scores`.
        slices: by which labels of the records images are sliced, see
            `faceattr_tf.evaluation.slices.make_slicings`: the worst slice may lose no more either.
    """

    images: str = ""
    records: str = ""
    split: str = "test"
    margin: float = 0.5
    slices: tuple[str, ...] = ()

    @property
    def pictures(self) -> bool:
        """Whether there are pictures of the user's."""
        return bool(self.images or self.records)

    def ready(self) -> None:
        """Raises UserError where what it compares on is not there."""
        from data_pipelines.records.record_set import RecordSet

        if self.images:
            picture_files(self.images)
        if self.records:
            records = RecordSet.load(self.records)
            if not records.count(self.split):
                raise UserError(f"{self.records}: split {self.split!r} holds no examples")
            self.slicings()
        elif self.slices:
            raise UserError("slices of images are those of --records, which is not given")

    def slicings(self) -> dict:
        """The slices of the records that are asked for.

        Raises:
            UserError: an unknown one.
        """
        from data_pipelines.input.stream import Source
        from data_pipelines.records.record_set import RecordSet

        if not self.slices:
            return {}
        labels = read_slice_labels(Source(RecordSet.load(self.records), self.split))
        return make_slicings(self.slices, labels, {})


def pass_check(
    check: Check,
    prepared: Path,
    previous: Path | None,
    model,
    workdir,
    description: dict,
    localiser=None,
) -> None:
    """Compares an export with its workdir and with the version that it would replace.

    Prints what was found.

    Args:
        check: what is asked of it.
        prepared: folder of the export.
        previous: folder of the version that it would replace, if there is one.
        model: the workdir's model.
        workdir: where the export comes from.
        description: its metadata.
        localiser: what finds faces for it.

    Raises:
        UserError: it must not be published.
    """
    examples = page_of_faces(check.images)
    found = ask(prepared, examples, list(description["signatures"]), description["batch_sizes"])
    expected = expected_answers(model, workdir, description, examples, localiser)
    results = differences(found, expected, description)
    print(difference_table(results).text())
    for result in results:
        if result.moved:
            print(f"{result.signature}: faces lie elsewhere in {result.moved} of {result.images}")
    print(latency_table(found, description["batch_sizes"]).text())
    exact = description["precision"] == "float32"
    tolerance = EXACT if exact else TOLERANCES[description["precision"]]
    refuse_if_different(results, tolerance, 0.0 if exact else CHANGED)
    if not check.records:
        return
    _pass_records(check, prepared, previous, workdir, description)


def _pass_records(check: Check, prepared: Path, previous, workdir, description: dict) -> None:
    """Compares an export with the version that it would replace, see `export.scores`."""
    examples = examples_of(check.records, check.split, workdir.tasks)
    versions = [(ask(prepared, examples, ["crop"]), description)]
    slicings = check.slicings()
    print(f"{check.records}, {check.split}: {said_of(versions[0][0], examples, description)}")
    if previous is None:
        return
    before = json.loads((previous / "assets" / "faceattr.json").read_text())
    versions.append((ask(previous, examples, ["crop"]), before))
    said = said_of(versions[1][0], examples, before)
    print(f"  version {previous.name}, which it would replace: {said}")
    for measure, measured in measures(versions, examples).items():
        found = [scores(answers, examples, described) for answers, described in measured]
        refuse_if_worse(*found, check.margin, check.records, measure)
        if slicings:
            found = [slice_scores(answers, examples, d, slicings) for answers, d in measured]
            refuse_if_worst_is_worse(*found, check.margin, check.records, measure)


def difference_table(results: Sequence[Difference]) -> Table:
    """How the signatures of an export differ from the workdir."""
    rows = [
        (
            result.signature,
            f"{result.images}",
            f"{result.unreadable}",
            f"{result.largest:.2g}",
            f"{result.changed} of {result.labels}",
        )
        for result in results
    ]
    header = ("Signature", "images", "not valid", "largest difference", "labels changed")
    return Table(header, tuple(rows))


def latency_table(found: dict, sizes: Sequence[int]) -> Table:
    """Median milliseconds of requests, by signature and batch size."""
    rows = [
        (key.split("/")[1], *(f"{1000 * seconds:.1f}" for seconds in np.median(values, axis=1)))
        for key, values in found.items()
        if key.startswith("seconds/")
    ]
    return Table(("Milliseconds", *(f"batch {size}" for size in sizes)), tuple(rows))


def ask(
    model: Path, examples: Examples, signatures: Sequence[str], batch_sizes: Sequence[int] = ()
) -> dict[str, np.ndarray]:
    """What an export answers in a process of its own, see `export.standalone`.

    Args:
        model: folder of a version.
        examples: what it is asked.
        signatures: which of them.
        batch_sizes: time requests of so many drawn faces, too.
    """
    program = Path(__file__).with_name("standalone.py")
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder, "questions.npz"), Path(folder, "answers.npz")
        asked = _joined("", examples.encoded) | {
            "box": examples.box,
            "landmarks": examples.landmarks,
            "signatures": np.array(list(signatures)),
        }
        if batch_sizes:
            faces = draw_requests(max(batch_sizes))
            asked |= _joined("timed_", faces.encoded) | {
                "timed_pixels": faces.pixels,
                "timed_box": faces.box,
                "timed_landmarks": faces.landmarks,
                "batch_sizes": np.array(batch_sizes),
            }
        np.savez(questions, **asked)
        command = [sys.executable, "-I", str(program), str(model), str(questions), str(answers)]
        with without_keras():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"the export fails in a process of its own: {_last_line(done.stderr)}")
        with np.load(answers, allow_pickle=False) as found:
            return dict(found)


def differences(found: dict, expected: dict, description: dict) -> list[Difference]:
    """Compares what `ask` and `expected_answers` gave."""
    of_label = {f["outputs"]["label"]: f for f in description["tasks"] if "label" in f["outputs"]}
    results = []
    for signature, outputs in expected.items():
        answers = {
            key.rsplit("/", 1)[1]: v
            for key, v in found.items()
            if key.startswith(f"answer/{signature}/")
        }
        valid = answers.get("valid", np.ones(len(next(iter(outputs.values()))), bool))
        largest, worst, labels, changed = 0.0, "", 0, 0
        compared = valid.copy()
        if FACE_BOX in outputs:
            compared &= _same_places(answers[FACE_BOX], outputs[FACE_BOX])
        for name, values in outputs.items():
            given, values = answers[name][compared], values[compared]
            alike = comparable(name, answers, outputs, description)[compared]
            if name.endswith("_label"):
                differs = given != values
                fields = of_label[name]
                probability = outputs[fields["outputs"]["probability"]][compared]
                differs &= ~_at_a_bound(fields, probability)
                labels, changed = labels + differs.size, changed + int(differs.sum())
            elif alike.any():
                given, values = given[alike], values[alike]
                scale = max(1.0, float(np.nanmax(np.abs(values), initial=0.0)))
                both_missing = np.isnan(given) & np.isnan(values)  # rows without a face
                difference = (
                    float(np.where(both_missing, 0.0, np.abs(given - values)).max()) / scale
                )
                difference = difference if math.isfinite(difference) else math.inf
                if difference > largest:
                    largest, worst = difference, name
        counts = len(valid), int((~valid).sum())
        moved = int((valid & ~compared).sum())
        results.append(Difference(signature, *counts, largest, worst, labels, changed, moved))
    return results


def _at_a_bound(fields: dict, probability: np.ndarray) -> np.ndarray:
    """Whether a label hangs on a probability that is `CLOSE` to what it is compared with."""
    near = np.zeros(probability.shape, bool)
    bounds = [fields["thresholds"]] if "thresholds" in fields else []
    if least := np.array(fields.get("least", ())).T.tolist():
        # Of yes/no labels, that of `no` is of the opposite probability.
        bounds += [1 - np.array(least[0]), least[1]] if bounds else [least]
    for bound in bounds:
        near |= np.abs(probability - bound) < CLOSE
    return near if "thresholds" in fields else near.any(axis=-1)


def comparable(name: str, found: dict, expected: dict, description: dict) -> np.ndarray:
    """Which values of an output two engines must agree on, bool of its shape: usually all.

    Which of two answers gives way in a consistent export, rounding may decide, as it decides
    labels. So of these probabilities only those count whose labels agree, without those beside
    their thresholds, which may be there because they gave way.
    """
    for fields in description["tasks"]:
        if fields.get("impossible") and fields["outputs"]["probability"] == name:
            label = fields["outputs"]["label"]
            beside = np.abs(expected[name] - fields["thresholds"]) <= BEYOND
            return (found[label] == expected[label]) & ~beside
    return np.ones(np.shape(expected[name]), bool)


def _same_places(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Whether the faces of each of N images, `[N, K, 4]` with NaN for none, lie at the same places."""
    limit = EXACT * max(1.0, float(np.nanmax(expected, initial=0.0)))
    return np.isclose(found, expected, rtol=0, atol=limit, equal_nan=True).all(axis=(1, 2))


def refuse_if_different(results: Sequence[Difference], tolerance: float, changed: float) -> None:
    """Raises UserError where an export differs from its workdir by more than it may."""
    for result in results:
        if not result.largest <= tolerance:
            raise UserError(
                f"not published: {result.output} of signature {result.signature} differs from the "
                f"workdir's by {result.largest:.3g} (at most {tolerance:g})"
            )
        if result.moved > max(1, CHANGED * result.images):
            raise UserError(
                f"not published: signature {result.signature} finds faces elsewhere in "
                f"{result.moved} of {result.images} images"
            )
        if result.changed > changed * result.labels:
            raise UserError(
                f"not published: signature {result.signature} changes {result.changed} of "
                f"{result.labels} labels"
            )


def _joined(prefix: str, files: Sequence[bytes]) -> dict[str, np.ndarray]:
    return {
        f"{prefix}bytes": np.frombuffer(b"".join(files), np.uint8),
        f"{prefix}lengths": np.array([len(data) for data in files], np.int64),
    }


def _last_line(text: str) -> str:
    return ([line for line in text.splitlines() if line.strip()] or ["no message"])[-1]
