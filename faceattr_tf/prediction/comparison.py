"""Whether two pictures show one person, by the features of a run's network."""

import dataclasses
import os
import sys

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.files import file_digest
from data_pipelines.tasks import LANDMARK_NAMES
from faceattr_tf.evaluation.verification import cosines
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.workdir import MODEL, Workdir


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What a network says of two pictures.

    Attributes:
        layer: the stage whose features were compared.
        score: their cosine.
        stage: what `faceattr_tf.reports.verification` measured of this stage, with its `threshold`;
            None where it did not.
        pairs: the file of the pairs that it measured, or why there is no threshold.
    """

    layer: str
    score: float
    stage: dict | None
    pairs: str

    @property
    def same(self) -> bool | None:
        """Whether it is one person, None where there is no threshold."""
        return None if self.stage is None else self.score >= self.stage["threshold"]


def compare(
    workdir: str | os.PathLike,
    pictures: tuple[str | os.PathLike, str | os.PathLike],
    *,
    layer: str = "",
    detect: bool = False,
) -> Comparison:
    """Compares the faces of two pictures, as the stored verification of the run compared pairs.

    Args:
        workdir: folder of a training run.
        pictures: two image files.
        layer: a stage, several joined by `+`; empty for the one that was measured, or where none
            was, for what the heads stand on.
        detect: find the faces first, and take the main one of each picture.

    Raises:
        UserError: a picture cannot be read, no face is found in one, there is no such stage, or
            several were measured and none is named.
    """
    from faceattr_tf.models.create import feature_layer, feature_network

    workdir = Workdir.open(workdir)
    stored, reason = _stored(workdir)
    stages = {name: one for name, one in stored.get("stages", {}).items() if "threshold" in one}
    if not layer and len(stages) > 1:
        raise UserError(
            f"{workdir.path}: several stages were measured; expected --layers=STAGE, one of "
            + ", ".join(stages)
        )
    model = workdir.load_model()
    layer = feature_layer(model, workdir.recipe().model, layer or next(iter(stages), ""))
    stage = stages.get(layer)
    if stored and not stage:
        reason = f"pairs were not judged by {layer}, but by {', '.join(stages)}"
    network = feature_network(model, layer, flip=bool(stage and stored["flip"]))
    analyzer = Analyzer(network, (), workdir.crop, framing=workdir.framing)
    place = {}
    if detect:
        place = _largest_faces(analyzer, pictures)
    else:
        analyzer.warn_of_whole_pictures()
    features = analyzer.outputs(list(pictures), **place)["features"]
    mean = stage and stage["mean"]
    (score,) = cosines(features, np.array([[0, 1]]), mean and np.array(mean))
    return Comparison(layer, float(score), stage, stored["pairs"]["path"] if stage else reason)


def _stored(workdir: Workdir) -> tuple[dict, str]:
    """The verification of the model as it is, or why there is none."""
    stored = workdir.verification()
    if not stored:
        return {}, "pairs were never judged by this run"
    if stored["weights"] != file_digest(workdir.path / MODEL):
        return {}, "pairs were judged before the model was trained on"
    return stored, ""


def _largest_faces(analyzer: Analyzer, pictures) -> dict[str, np.ndarray]:
    """Boxes `[2, 4]` and landmarks `[2, 5, 2]` of the largest faces."""
    main = []
    for picture, faces in zip(pictures, analyzer.analyze(list(pictures), detect=True), strict=True):
        if not faces:
            raise UserError(f"{picture}: no face found")
        if len(faces) > 1:
            print(f"{picture}: {len(faces)} faces, the largest is taken", file=sys.stderr)
        main.append(faces[0])
    unknown = (np.nan, np.nan)
    points = [
        [(face.landmarks or {}).get(name, unknown) for name in LANDMARK_NAMES] for face in main
    ]
    return {"box": np.array([face.box for face in main]), "landmarks": np.array(points)}
