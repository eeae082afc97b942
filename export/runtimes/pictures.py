"""Pictures on which converted networks are calibrated and compared with Keras."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from data_pipelines.crop.geometry import Crop
from export.check import Check
from export.examples import PAGE, Examples, examples_of, page_of_faces

MOST = 2000
"""Pictures of records to compare on: the difference of two networks needs no more."""

CALIBRATION = 256
"""Pictures to calibrate on: ranges of activations change little beyond a few hundred."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Crops as the network sees them.

    Attributes:
        title: what they are, for people.
        kind: `records`, `images` or `random pixels`.
        crop: what is seen of a picture.
        examples: the pictures; None for random pixels.
    """

    title: str
    kind: str
    crop: Crop
    examples: Examples | None = None

    def pages(self) -> Iterator[np.ndarray]:
        """Crops float32 `[n, height, width, 3]`, n up to `PAGE`, all in all once."""
        if self.examples is None:
            shape = PAGE, self.crop.height, self.crop.width, 3
            yield np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
            return
        from data_pipelines.crop.pixels import decode_and_crop

        given = self.examples
        for begin in range(0, len(given.encoded), PAGE):
            part = slice(begin, begin + PAGE)
            files = given.encoded[part], given.box[part], given.landmarks[part]
            yield np.asarray(decode_and_crop(*files, self.crop)[0])


def pictures_to_compare(check: Check, workdir) -> Pictures:
    """Pictures of the records' split, else of the folder, else random pixels."""
    if check.records:
        examples = examples_of(check.records, check.split, workdir.tasks, MOST)
        title = f"{len(examples.encoded):,} pictures of {check.records}, {check.split}"
        return Pictures(title, "records", workdir.crop, examples)
    if check.images:
        examples = page_of_faces(check.images)
        title = f"{len(examples.encoded):,} pictures of {check.images}"
        return Pictures(title, "images", workdir.crop, examples)
    title = "random pixels, as neither --records nor --images is given"
    return Pictures(title, "random pixels", workdir.crop)


def calibration_crops(check: Check, workdir) -> np.ndarray | None:
    """Crops `[n, height, width, 3]` of the training split, if the records have one, or of the folder.

    None where there are no pictures: ranges of noise are not those of faces.
    """
    if check.records:
        from data_pipelines.records.record_set import RecordSet

        trained = RecordSet.load(check.records).splits.get("train")
        examples = examples_of(
            check.records, "train" if trained else check.split, workdir.tasks, CALIBRATION
        )
    elif check.images:
        examples = page_of_faces(check.images)
    else:
        return None
    pages = Pictures("", "", workdir.crop, examples).pages()
    return np.concatenate(list(pages))[:CALIBRATION]
