"""Where faces are in photographs, found by networks that were trained on attribute tags alone.

LNets+ANet (Liu et al., ICCV 2015), section 3.1: LNet_o sees the whole photograph, and the windows
around the strongest peaks of its response map are heads with shoulders; LNet_s sees such a window,
and the one around its strongest peak is the face. `prediction/localisation_graph.py` computes the
same in a TensorFlow graph, for exports.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.crop.geometry import Crop
from data_pipelines.detection.density_peaks import pixel_boxes
from data_pipelines.detection.mtcnn import Detection
from data_pipelines.detection.response_windows import WindowSettings, find_windows
from data_pipelines.errors import UserError
from data_pipelines.tasks import LANDMARK_NAMES
from faceattr_tf.workdir import LOCALISATION, Workdir

NO_LANDMARKS = np.full((len(LANDMARK_NAMES), 2), np.nan, np.float32)

ENLARGED = 1.4
"""Side of what LNet_o sees of a photograph, in sides of the images that it was trained on: its maps
have more cells, and on canvases more faces are found (README, "LNets")."""

MARGIN = 0.4
"""What LNet_s sees around a window, on every side, as a share of its longer side."""

_CELLS = 64  # on a side of a map: the graph compares all pairs of those above its median


@dataclasses.dataclass(frozen=True)
class Stage:
    """A network that finds windows in what it sees, and how.

    Attributes:
        network: Keras model, float32 `[B, H, W, 3]` in 0..255 -> response maps `[B, h, w]`.
        field: the `faceattr_tf.models.lnet.ReceptiveField` of a map's cells.
        side: of what the network sees, in pixels: the longer side of a photograph, both of a window.
        settings: how maps become windows.
        margin: what it sees around a window, on every side, as a share of its longer side.
        recipe: name of the recipe that the network was trained by.
    """

    network: Any
    field: Any
    side: int
    settings: WindowSettings
    margin: float = 0.0
    recipe: str = ""

    @classmethod
    def of(cls, path: str | Path, in_windows: bool = False) -> "Stage":
        """The LNet of a workdir, with the settings of its `localisation.json`.

        That file holds fields of `WindowSettings`, `side` and `margin`. What it lacks, or without it
        all, is as `WindowSettings` has it; the side is that of the images that the network was
        trained on, for photographs `ENLARGED`; the margin is `MARGIN`.

        Args:
            path: the workdir.
            in_windows: it looks into windows, as LNet_s does, and not at photographs.

        Raises:
            UserError: there is no model, it is no LNet, or a setting makes no sense.
        """
        from faceattr_tf.models.lnet import receptive_field, response_model

        workdir = Workdir.open(path)
        recipe = workdir.recipe()
        if recipe.model.name != "lnet":
            raise UserError(f"{path} holds a network {recipe.model.name}: only lnet finds faces")
        side = max(workdir.crop.height, workdir.crop.width) * (1 if in_windows else ENLARGED)
        stored = {"side": round(side), "margin": MARGIN} | workdir.localisation()
        known = [field.name for field in dataclasses.fields(WindowSettings)]
        for name, value in stored.items():
            if name not in ("side", "margin", *known) or not isinstance(value, int | float):
                raise UserError(
                    f"{workdir.path / LOCALISATION}: {name} {value!r}: expected numbers of side, "
                    f"margin, {', '.join(known)}"
                )
        model, side, margin = workdir.load_model(), stored.pop("side"), stored.pop("margin")
        settings = WindowSettings(**stored)
        settings.check()
        if not 0 <= margin <= 2:
            raise UserError(f"{path}: margin {margin}: expected a share from 0 to 2")
        network, field = response_model(model), receptive_field(model)
        stage = cls(network, field, side, settings, margin, recipe.name)
        largest = _CELLS * stage.field.stride
        if side not in range(stage.least, largest + 1):
            raise UserError(f"{path}: side {side}: expected {stage.least} to {largest} pixels")
        return stage

    @property
    def least(self) -> int:
        """The side of the smallest image whose map has a cell, in pixels."""
        return round(2 * self.field.offset) + 1

    @property
    def crop(self) -> Crop:
        """What the network sees of a window."""
        return Crop("box", self.side, self.side, margin=self.margin)


class Localiser:
    """Finds faces in photographs by one network, or by a second one in the windows of the first.

    Args:
        stages: LNet_o and, optionally, LNet_s, which finds one face in every window.
        faces: the largest number of faces in a photograph; None for LNet_o's setting.
    """

    def __init__(self, stages: Sequence[Stage], faces: int | None = None):
        """Raises UserError where the number of stages or faces makes no sense."""
        if len(stages) not in (1, 2):
            raise UserError(
                f"{len(stages)} networks to find faces: expected LNet_o, or with LNet_s"
            )
        first, *rest = stages
        faces = first.settings.count if faces is None else faces
        if faces < 1:
            raise UserError(f"faces {faces}: expected 1 or more")
        counts = [faces] + [1] * len(rest)
        self.stages = tuple(
            dataclasses.replace(stage, settings=dataclasses.replace(stage.settings, count=count))
            for stage, count in zip(stages, counts, strict=True)
        )

    @classmethod
    def from_workdirs(cls, paths: Sequence[str | Path], faces: int | None = None) -> "Localiser":
        """The localiser of one or two training runs, see `Stage.of`."""
        stages = [Stage.of(path, in_windows=index > 0) for index, path in enumerate(paths)]
        return cls(stages, faces)

    @property
    def faces(self) -> int:
        """The largest number of faces in a photograph."""
        return self.stages[0].settings.count

    def describe(self) -> list[dict]:
        """Recipe, side, margin and settings of every stage, ready for JSON."""
        return [
            {name: getattr(stage, name) for name in ("recipe", "side", "margin")}
            | dataclasses.asdict(stage.settings)
            for stage in self.stages
        ]

    def __call__(self, images: Iterable[bytes | np.ndarray]) -> Iterator[list[Detection]]:
        """The faces of each photograph, those of LNet_o's strongest peaks first.

        A window in which LNet_s sees nothing is left out. Boxes end at the border of the picture;
        scores are what the peak of LNet_o has above the median of its map; landmarks are unknown.

        Args:
            images: upright encoded images (JPEG, PNG, BMP, first frame of GIF), or uint8 RGB
                `[H, W, 3]`.

        Raises:
            tf.errors.InvalidArgumentError: an image cannot be decoded.
        """
        from data_pipelines.crop.scaling import scaled_images, scaled_pixels

        first, *rest = self.stages
        for image in images:
            scale = scaled_images if isinstance(image, bytes) else scaled_pixels
            scaled = scale([image], first.side, first.least)
            size = scaled.sizes[0].numpy()
            response = np.asarray(first.network(scaled.read(0)[None], training=False))[0]
            boxes, scores = _boxes(first, response, scaled.transform[0].numpy(), size)
            for stage in rest:
                inner = [_boxes(stage, *seen, size)[0] for seen in _responses(stage, image, boxes)]
                scores = np.repeat(scores, np.array([len(found) for found in inner], int))
                boxes = np.concatenate([np.zeros((0, 4)), *inner])
            yield [
                Detection(box, float(score), NO_LANDMARKS)
                for box, score in zip(boxes.astype(np.float32), scores, strict=True)
            ]


def crop_faces(image: bytes | np.ndarray, boxes: np.ndarray, landmarks: np.ndarray, crop: Crop):
    """The crops of faces in one image: float32 `[P, height, width, 3]`, and transforms.

    Args:
        image: an encoded one, or uint8 `[H, W, 3]`.
        boxes: `[P, 4]`, NaN where unknown.
        landmarks: `[P, 5, 2]`, NaN where unknown.
        crop: what is seen of each.
    """
    import tensorflow as tf

    from data_pipelines.crop.pixels import crop_pixels, decode_and_crop

    cut = decode_and_crop if isinstance(image, bytes) else crop_pixels
    one = tf.constant([image] if isinstance(image, bytes) else image[None])
    return cut(one, boxes, landmarks, crop, owners=tf.zeros(len(boxes), tf.int32))


def _responses(stage: Stage, image, boxes) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Map and transform of a stage's crop of each box."""
    if not len(boxes):
        return ()
    crops, transforms = crop_faces(image, boxes, [NO_LANDMARKS] * len(boxes), stage.crop)
    return zip(np.asarray(stage.network(crops, training=False)), transforms.numpy(), strict=True)


def _boxes(stage: Stage, response, transform, size) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a map in pixels of the picture, cut at its border, and their responses.

    Args:
        stage: whose map it is.
        response: `[h, w]`.
        transform: `[2, 3]`, from pixels that the network saw to pixels of the picture; it neither
            turns nor stretches.
        size: height and width of the picture.
    """
    found, responses = find_windows(response, stage.settings)
    boxes = pixel_boxes(found, stage.field.stride, stage.field.offset)
    scale, start = float(transform[0, 0]), np.asarray(transform, float)[:, 2]
    low = scale * (boxes[:, :2] - 0.5) + start + 0.5
    high = np.minimum(low + scale * boxes[:, 2:], size[::-1])
    low = np.maximum(low, 0.0)
    return np.concatenate([low, high - low], axis=1), responses


def crop_of_window(crop: Crop) -> Crop:
    """What a model of faces sees of a window that was found.

    A model that was trained on whole pictures, each framing a face, sees the whole window.
    """
    return dataclasses.replace(crop, kind="box", margin=0.0) if crop.kind == "none" else crop
