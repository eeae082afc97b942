"""Pictures of where the answers about a face come from."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.tasks import LANDMARK_NAMES
from faceattr_tf.evaluation.explanation import (
    draw_heat,
    explained_tasks,
    gradient_maps,
    logits_of,
    occlusion_maps,
)
from faceattr_tf.evaluation.inference import forward_function
from faceattr_tf.models.create import map_stage
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.face import Choice, Face
from faceattr_tf.prediction.picture import Image, read_picture
from faceattr_tf.workdir import Workdir

HEIGHT = 320
"""Height in pixels to which every crop is drawn."""


class Explainer:
    """Heat maps of what a model answers about a face.

    Args:
        analyzer: the model and all that it needs.
        workdir: the run that it is of.
        labels: attributes or classes; `TASK/LABEL` where several tasks have a label of that name.

    Raises:
        UserError: the model has no such label, several tasks have it, or no stage gives maps.
    """

    def __init__(self, analyzer: Analyzer, workdir: Workdir, labels: Sequence[str]):
        """Checks the labels; nothing is computed."""
        self.analyzer, self.tasks = analyzer, explained_tasks(analyzer.tasks)
        columns = [(task.name, label) for task in self.tasks for label in task.labels]
        self.columns: dict[str, int] = {}
        for asked in dict.fromkeys(labels):
            found = [
                column
                for column, (task, label) in enumerate(columns)
                if asked in (label, f"{task}/{label}")
            ]
            if len(found) != 1:
                known = ", ".join(f"{task}/{label}" for task, label in columns) or "nothing"
                count = "several tasks have" if found else "the model has no"
                raise UserError(f"explain {asked!r}: {count} such label; it can explain {known}")
            self.columns[asked] = found[0]
        self.labels = columns
        self.stage = map_stage(analyzer.model, workdir.recipe().model)
        self._forward = forward_function(analyzer.model)

    def draw(
        self, face: Face, image: Image | None = None, labels: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """The model's crop of a face and beside it, over its grey copy, both maps.

        What is explained is the answer: of a yes what speaks for it, of a no what speaks against.

        Args:
            face: what the analyzer said of a face.
            image: the picture that it is in; None for the face's file.
            labels: some of those that were asked for; none for all of them.

        Returns:
            Label as it was asked for -> uint8 RGB: the crop, the map by occlusion and the one by
            gradients (Grad-CAM on the stage of `map_stage`), side by side below a line that
            names label and answer.
        """
        crop = self._crop(face, image)
        columns = {asked: self.columns[asked] for asked in labels or self.columns}
        signs = np.zeros((1, len(self.labels)), np.float32)
        for column in columns.values():
            signs[0, column] = 1 if self._said(face, *self.labels[column]) else -1
        hidden = occlusion_maps(
            lambda pixels: logits_of(self.tasks, self._forward(pixels)), crop, signs
        )[0]
        gradients = gradient_maps(self.analyzer.model, self.stage, self.tasks, crop, signs)[0]
        drawn = {}
        for asked, column in columns.items():
            plain = np.clip(np.rint(crop[0]), 0, 255).astype(np.uint8)
            maps = [draw_heat(plain, hidden[column]), draw_heat(plain, gradients[column])]
            answer = f"{asked}: {'yes' if signs[0, column] > 0 else 'no'}"
            drawn[asked] = _titled([plain, *maps], [answer, "by occlusion", "by gradients"])
        return drawn

    def write(self, face: Face, folder: Path, prefix: str = "") -> None:
        """Writes what `draw` gives as `PREFIXLABEL.jpg`; a `/` in a label becomes `-`."""
        folder.mkdir(parents=True, exist_ok=True)
        for asked, picture in self.draw(face).items():
            content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (folder / f"{prefix}{asked.replace('/', '-')}.jpg").write_bytes(content.tobytes())

    def _crop(self, face: Face, image: Image | None = None) -> np.ndarray:
        """What the model saw of a face, float32 `[1, H, W, 3]`."""
        import tensorflow as tf

        from data_pipelines.crop.pixels import decode_and_crop

        image = face.filename if image is None else image
        picture = read_picture(image, self.analyzer.max_pixels)
        if face.turned:  # it was judged upright
            picture = picture.turned(face.turned // 90)
        unknown = (np.nan, np.nan)
        box = np.array(face.box or [np.nan] * 4)
        points = [(face.landmarks or {}).get(name, unknown) for name in LANDMARK_NAMES]
        place = picture.own_place(box, np.array(points))
        box, landmarks = (np.array([one], np.float32) for one in place)
        content = tf.constant([picture.content])
        return decode_and_crop(content, box, landmarks, self.analyzer.crop)[0].numpy()

    @staticmethod
    def _said(face: Face, task: str, label: str) -> bool:
        """Whether the model answered yes to an attribute, or with this class."""
        result = face.tasks[task]
        return result.label == label if isinstance(result, Choice) else result[label].label


def _titled(pictures: Sequence[np.ndarray], titles: Sequence[str]) -> np.ndarray:
    """Pictures of one size side by side, enlarged to `HEIGHT`, each below its title."""
    columns = []
    for pixels, title in zip(pictures, titles, strict=True):
        width = max(1, round(pixels.shape[1] * HEIGHT / pixels.shape[0]))
        column = cv2.resize(pixels, (width, HEIGHT), interpolation=cv2.INTER_CUBIC)
        head = np.full((28, width, 3), 32, np.uint8)
        size = min(0.52, 0.52 * (width - 12) / max(1, 10 * len(title)))
        cv2.putText(
            head, title, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, size, (240, 240, 240), 1, cv2.LINE_AA
        )
        columns.append(np.concatenate([head, column]))
    return np.concatenate(columns, axis=1)
