"""How pictures frame the faces in them, and the crop that shows any face so.

A model that was trained on whole pictures (crop `none`), such as those of CelebA that were aligned
beforehand, has learned faces of one size in one place. What it is to judge of a face in a photograph
is therefore cut out as its pictures of training were cut around theirs: by the crop `align` whose
margin and vertical shift put the landmarks where they lay there. Faces are turned upright by it, as
those of the pictures are on average.
"""

import dataclasses
from typing import Any

import numpy as np

from data_pipelines.crop.geometry import Crop, compose, crop_transform
from data_pipelines.errors import UserError

LEAST_SHARE = 0.5
"""Pictures that must have a known face, as a share of those that were looked at."""

MOST_SPREAD = 2.0
"""Ratio of the sizes of faces, upper by lower quartile, above which pictures frame them anyhow."""


@dataclasses.dataclass(frozen=True)
class Framing:
    """Where faces lie in what a network was shown of whole pictures.

    Attributes:
        margin: that of the crop `align` that shows faces as the pictures do, see `Crop`.
        vertical: its vertical shift.
        pictures: how many were looked at.
        faces: how many of them have a face whose landmarks are known.
        spread: ratio of the sizes of these faces, upper by lower quartile.
        source: who knows the landmarks: "records" or "MTCNN".
    """

    margin: float
    vertical: float
    pictures: int
    faces: int
    spread: float
    source: str

    @classmethod
    def of(cls, crop: Crop, sizes, landmarks, pictures: int, source: str) -> "Framing":
        """The medians over faces.

        Args:
            crop: what the network is shown of the pictures, of kind `none`.
            sizes: `[N, 2]` height and width of the pictures with a face.
            landmarks: `[N, 5, 2]` x, y in their pixels, all known.
            pictures: how many were looked at.
            source: see the class.
        """
        if not len(sizes):
            return cls(0.0, 0.0, pictures, 0, 1.0, source)
        nowhere = np.full([len(sizes), 4], np.nan)
        aligned = crop_transform(Crop("align", crop.height, crop.width), sizes, nowhere, landmarks)
        shown = crop_transform(crop, sizes, nowhere, landmarks).numpy()
        # `none` neither turns nor shifts against the centre of the picture: its inverse is simple.
        back = shown.copy()
        back[:, :, :2] = np.linalg.inv(shown[:, :, :2])
        back[:, :, 2:] = -back[:, :, :2] @ shown[:, :, 2:]
        inside = compose(back, aligned).numpy()  # from the aligned crop to the one that is shown
        centre = np.array([crop.width - 1, crop.height - 1]) / 2
        size = np.hypot(inside[:, 0, 0], inside[:, 1, 0])
        down = inside[:, 1, :2] @ centre + inside[:, 1, 2] - centre[1]
        low, middle, high = np.percentile(size, [25, 50, 75])
        side = min(crop.height, crop.width)
        vertical = np.median(-down / (side * size))
        margin = (1 / middle - 1) / 2
        numbers = (round(float(value), 4) for value in (margin, vertical, high / low))
        margin, vertical, spread = numbers
        return cls(margin, vertical, pictures, len(sizes), spread, source)

    @property
    def fault(self) -> str:
        """Why no crop shows faces as the pictures do; empty where one does."""
        if self.faces < LEAST_SHARE * self.pictures or not self.faces:
            return f"a face is known in {self.faces} of {self.pictures} of its training pictures"
        if not (self.spread <= MOST_SPREAD and self.margin > -0.5):
            return f"its training pictures show faces in sizes that differ {self.spread:.1f}-fold"
        return ""

    def __str__(self) -> str:
        """In words, such as for a line on standard error."""
        by = "the records" if self.source == "records" else self.source
        return (
            f"align, margin {self.margin:.3g}, vertical {self.vertical:.3g}, as its training pictures "
            f"frame theirs ({self.faces} of {self.pictures}, landmarks by {by})"
        )


def crop_of_face(crop: Crop, framing: dict[str, Any] | None) -> Crop:
    """What a model sees of a face whose place is known; without the place, what `crop` gives.

    Args:
        crop: what it sees of its records.
        framing: fields of `Framing`, of a model of whole pictures where it is known.
    """
    found = Framing(**framing) if framing else None
    if crop.kind != "none" or found is None or found.fault:
        return crop
    return dataclasses.replace(crop, kind="align", margin=found.margin, vertical=found.vertical)


def check_tells_faces_apart(crop: Crop, framing: dict[str, Any] | None) -> None:
    """Raises UserError where `crop_of_face` leaves whole pictures, the same for each of their faces."""
    if crop_of_face(crop, framing).kind != "none":
        return
    reason = (
        Framing(**framing).fault
        if framing
        else "runs of earlier versions do not know how these frame a face: faceattr-train with the "
        "flags that it was trained with finds out, without further training"
    )
    raise UserError(
        "the model was trained on whole pictures, and would say the same of all faces of a picture: "
        + reason
    )
