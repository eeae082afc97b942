"""How the pictures that a model of whole pictures is trained on frame their faces."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.crop.framing import LEAST_SHARE, Framing
from data_pipelines.crop.geometry import Crop
from data_pipelines.formats.encoded import decode, read_header
from data_pipelines.input.batches import encoded_batches
from data_pipelines.input.stream import Source

PICTURES = 300
"""Pictures that are looked at: in 300 of CelebA half of the margins lie within 0.05 of each other."""

_ANY_SIZE = 2**40  # the records were checked when they were built
_DECODED = 16  # pictures held at a time, decoded


def framing_of(crop: Crop, sources: Sequence[Source], pictures: int = PICTURES) -> Framing:
    """Where faces lie in the first pictures of each source, in proportion to its weight.

    Records are stored in an order that says nothing. Landmarks are those of the records where most
    of the pictures have them, else those of the face that MTCNN finds nearest to the centre.

    Args:
        crop: what the network is shown, of kind `none`.
        sources: what it is trained on.
        pictures: how many are looked at.
    """
    weights = np.array([source.weight for source in sources], float)
    counts = np.ceil(pictures * weights / weights.sum()).astype(int)
    images, landmarks = [], []
    for source, count in zip(sources, counts, strict=True):
        if count:
            for batch in encoded_batches(source, (), batch_size=int(count)).take(1):
                images += batch["image"].numpy().tolist()
                landmarks.append(batch["landmarks"].numpy())
    headers = [read_header(image, _ANY_SIZE) for image in images]
    sizes = np.array([(header.height, header.width) for header in headers])
    points = np.concatenate(landmarks)
    known, source = np.isfinite(points).all(axis=(1, 2)), "records"
    if known.sum() < LEAST_SHARE * len(images):
        points, source = _found(images), "MTCNN"
        known = np.isfinite(points).all(axis=(1, 2))
    return Framing.of(crop, sizes[known], points[known], len(images), source)


def _found(images: Sequence[bytes]) -> np.ndarray:
    """The landmarks `[N, 5, 2]` of the face nearest to the centre of each, NaN without one."""
    from data_pipelines.detection.mtcnn import Detector

    detector, points = Detector(), np.full([len(images), 5, 2], np.nan, np.float32)
    for start in range(0, len(images), _DECODED):
        part = images[start : start + _DECODED]
        for index, faces in enumerate(detector(decode(one, _ANY_SIZE) for one in part), start):
            if faces:
                points[index] = faces[0].landmarks
    return points
