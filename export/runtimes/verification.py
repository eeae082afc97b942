"""How far converted networks are from the Keras model, what they weigh and how fast they are."""

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import UserError
from export.check import TOLERANCES, differences, scores
from export.examples import task_answers
from export.runtimes.face_crop import points_in_image
from export.runtimes.network import Converted
from export.runtimes.pictures import Pictures
from export.signatures import EMBEDDING, embedding_of
from faceattr_tf.reports.tables import Table, percent

LIMITS = {"float32": 1e-3, "float16": TOLERANCES["float16"]}
"""Largest difference from Keras, relative to outputs beyond 1. Weights of half precision differ by
two thousandths where logits are large; whole numbers are judged by their balanced accuracy."""

EMBEDDINGS = {"float32": LIMITS["float32"], "float16": 0.05}
"""The same for the embedding, in which halves of 27 layers of a MobileNet differ by 0.023 while its
probabilities differ by 0.019 and one label of a thousand."""

VALUES = 0.05
"""Largest mean difference of points and values of whole numbers, relative to outputs beyond 1: a
twentieth of the crop. Rounding gives a tenth of that; more is an operation gone wrong."""

ROUNDS, SECONDS = 200, 5.0
"""Timed calls of each network at most, and for how long, but twice at least. They take turns, so
that what else the machine does is shared fairly."""


@dataclasses.dataclass(frozen=True)
class Verified:
    """What was found of a converted network.

    Attributes:
        converted: the network.
        probability: largest difference of a probability.
        largest: largest difference of any answer, relative to answers beyond 1.
        output: the answer with it.
        embedding: largest difference of the embedding, relative to values beyond 1.
        values: largest mean difference of an output that is neither probability nor label nor
            embedding, relative to outputs beyond 1.
        labels: compared.
        changed: those of them that differ though their probability is not beside the threshold.
        accuracy: mean balanced accuracy, 0 to 1; None where no labels are known.
        milliseconds: median of a call with one crop.
    """

    converted: Converted
    probability: float
    largest: float
    output: str
    embedding: float
    values: float
    labels: int
    changed: int
    accuracy: float | None
    milliseconds: float


def verify(
    networks: Sequence[Converted], model, workdir, description: dict, pictures: Pictures
) -> list[Verified]:
    """Asks every network and the Keras model about the same crops.

    Args:
        networks: what is asked, that of TensorFlow first.
        model: the workdir's Keras model.
        workdir: gives tasks and crop.
        description: the export's metadata, see `export.description.describe`.
        pictures: what they are asked about.
    """
    import keras

    from export.description import described_tasks

    seen = embedding_of(model, described_tasks(workdir, description))
    with_embedding = keras.Model(model.input, (model.output, seen))
    pages, found = [], [[] for _ in networks]
    for crops in pictures.pages():
        raw, embedding = with_embedding(crops, training=False)
        itself = np.broadcast_to(np.eye(2, 3, dtype=np.float32), [len(crops), 2, 3])
        expected = task_answers(raw, itself, workdir, description)
        pages.append(expected | {EMBEDDING: np.asarray(embedding)})
        for network, answers in zip(networks, found, strict=True):
            answers.append(_in_pixels(network.ask(crops), description))
    expected = _joined(pages)
    seconds = _seconds(networks, crops[:1])
    return [
        _compared(network, _joined(answers), expected, description, pictures, 1000 * time_taken)
        for network, answers, time_taken in zip(networks, found, seconds, strict=True)
    ]


def _compared(network, found, expected, description, pictures, milliseconds) -> Verified:
    values = _mean_difference_of_values(found, expected)
    found = {f"answer/crop/{name}": values for name, values in found.items()}
    answers = {name: values for name, values in expected.items() if name != EMBEDDING}
    (every,) = differences(found, {"crop": answers}, description)
    of_embedding = {"crop": {EMBEDDING: expected[EMBEDDING]}}
    (embedding,) = differences(found, of_embedding, description)
    classes = {n: v for n, v in expected.items() if n.endswith(("_probability", "_label"))}
    probability = 0.0
    if classes:
        probability = differences(found, {"crop": classes}, description)[0].largest
    accuracy = None
    if pictures.examples and pictures.examples.labels:
        of_labels = scores(found, pictures.examples, description)
        accuracy = float(np.mean(list(of_labels.values()))) if of_labels else None
    return Verified(
        network,
        probability,
        every.largest,
        every.output,
        embedding.largest,
        values,
        every.labels,
        every.changed,
        accuracy,
        milliseconds,
    )


def verification_table(results: Sequence[Verified]) -> Table:
    """What was found, a row per network; times of calls also as a share of the first one's.

    "Any output" are also points, values and the embedding, relative to outputs beyond 1.
    """
    first = results[0].milliseconds
    rows = [
        (
            result.converted.title,
            f"{result.converted.size:,}",
            f"{result.probability:.2g}",
            f"{max(result.largest, result.embedding):.2g}",
            f"{result.changed} of {result.labels}",
            percent(result.accuracy, 2),
            f"{result.milliseconds:.1f}",
            f"{result.milliseconds / first:.2f}",
        )
        for result in results
    ]
    header = (
        *("Network", "bytes", "probability differs by", "any output by", "labels changed"),
        *("balanced accuracy", "ms a crop", "of the first"),
    )
    return Table(header, tuple(rows))


def refuse_unlike(results: Sequence[Verified], margin: float) -> None:
    """Raises UserError where a network must not be published.

    Args:
        results: of `verify`; the first is of TensorFlow itself.
        margin: percentage points of mean balanced accuracy that whole numbers may lose.
    """
    for result in results:
        title, limit = result.converted.title, LIMITS.get(result.converted.precision)
        if limit is not None and not result.largest <= limit:
            raise UserError(
                f"not published: {result.output} of {title} differs from Keras' by "
                f"{result.largest:.3g} (at most {limit:g})"
            )
        if limit is not None and not result.embedding <= EMBEDDINGS[result.converted.precision]:
            raise UserError(
                f"not published: {EMBEDDING} of {title} differs from Keras' by "
                f"{result.embedding:.3g} (at most {EMBEDDINGS[result.converted.precision]:g})"
            )
        if limit is None and not result.values <= VALUES:
            raise UserError(
                f"not published: points or values of {title} differ from Keras' by "
                f"{result.values:.2g} on average (at most {VALUES:g} of the largest); "
                "--litert_types=float32,float16 leaves it out"
            )
        if result.accuracy is None:
            continue
        after, before = 100 * result.accuracy, 100 * results[0].accuracy
        if after < before - margin:
            raise UserError(
                f"not published: mean balanced accuracy of {title} is {after:.2f} %, in float32 "
                f"{before:.2f} % (margin {margin:g} points)"
            )


def _mean_difference_of_values(found: dict, expected: dict) -> float:
    """Largest mean difference of points and values, relative to outputs beyond 1."""
    largest = 0.0
    for name, values in expected.items():
        if name != EMBEDDING and not name.endswith(("_probability", "_label")):
            scale = max(1.0, float(np.abs(values).max()))
            difference = float(np.abs(found[name] - values).mean()) / scale
            largest = max(largest, difference if np.isfinite(difference) else np.inf)
    return largest


def _in_pixels(answers: dict, description: dict) -> dict:
    """The answers with points in pixels of the crop, as `task_answers` gives them."""
    itself = np.eye(2, 3, dtype=np.float32)
    for fields in description["tasks"]:
        if name := fields["outputs"].get("points") or fields["outputs"].get("outline"):
            answers[name] = points_in_image(answers[name], itself, description["crop"])
    return answers


def _joined(pages: Sequence[dict]) -> dict:
    return {name: np.concatenate([page[name] for page in pages]) for name in pages[0]}


def _seconds(networks: Sequence[Converted], crop: np.ndarray) -> np.ndarray:
    """Median time of a call with one crop, per network."""
    rounds, end = [], time.perf_counter() + SECONDS
    while len(rounds) < 2 or (len(rounds) < ROUNDS and time.perf_counter() < end):
        times = []
        for network in networks:
            begin = time.perf_counter()
            network.ask(crop)
            times.append(time.perf_counter() - begin)
        rounds.append(times)
    return np.median(rounds, axis=0)
