"""What layouts of drawn faces are made of: labels, people, pictures, tables; all by a seed."""

import pathlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from data_pipelines.synth.drawing import draw_face
from data_pipelines.tasks import CELEBA_ATTRIBUTES, POSE_CLASSES

_FIRST = ("Ada", "Bao", "Carl", "Dina", "Emil", "Fatma", "Goran", "Hana", "Ivan", "Julia", "Kofi")
_LAST = ("Almeida", "Berg", "Castro", "Dvorak", "Eriksen", "Gupta", "Haddad", "Ito", "Kovacs")


def partition(images: int) -> tuple[int, int, int]:
    """How many images train, validate and test: a tenth each of the last two."""
    share = max(1, round(images / 10))
    return images - 2 * share, share, share


def balanced_labels(
    rng, counts: Sequence[int], columns: int = len(CELEBA_ATTRIBUTES)
) -> np.ndarray:
    """Bool `[sum(counts), columns]`: in each part half of every column is true, in any order."""
    parts = []
    for count in counts:
        # An odd one out falls on either side.
        half = (np.arange(count)[:, None] + rng.integers(0, 2, columns)) % 2 == 1
        parts.append(rng.permuted(half, axis=0))
    return np.concatenate(parts)


def draw_poses(rng, images: int) -> np.ndarray:
    """Places in `POSE_CLASSES` `[images]`, each as often, in any order."""
    return rng.permutation(np.arange(images) % len(POSE_CLASSES))


def draw_identities(rng, counts: Sequence[int], highest: int | None = None) -> np.ndarray:
    """Numbers of people `[sum(counts)]`, two to four images each, nobody in two parts."""
    parts, people = [], 0
    for count in counts:
        sizes = rng.integers(2, 5, count)
        part = people + np.repeat(np.arange(count), sizes)[:count]
        people = part[-1] + 1
        parts.append(rng.permutation(part))
    # Spread over the official range, so that protocols that cut it find people in every part.
    numbers = np.linspace(1, highest or people, people).astype(int)
    return rng.permutation(numbers)[np.concatenate(parts)]


def name_of(number: int) -> str:
    """The name of a person, another one for every number."""
    rest, first = divmod(int(number), len(_FIRST))
    middle, last = divmod(rest, len(_LAST))
    return "_".join([_FIRST[first], *(["X" * middle] if middle else []), _LAST[last]])


def draw_faces(seed, labels, poses, identities, sizes) -> Iterator[tuple]:
    """What `draw_face` gives for every row of labels, with its pose, person and size."""
    for index, (label, pose, identity, size) in enumerate(
        zip(labels, poses, identities, sizes, strict=True)
    ):
        yield draw_face(
            np.random.default_rng([seed, 1, index]),
            dict(zip(CELEBA_ATTRIBUTES, label, strict=True)),
            POSE_CLASSES[pose],
            size,
            np.random.default_rng([seed, 2, int(identity)]),
        )


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes a picture, RGB or grey, in the format that its name ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image[..., ::-1] if image.ndim == 3 else image
    path.write_bytes(cv2.imencode(path.suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def write_rows(path, header, names, values, width=0) -> None:
    """Writes lines of a name and whole numbers, each `width` wide, below those of the header."""
    rows = [
        name + "".join(f" {int(value):{width}d}" for value in row)
        for name, row in zip(names, values, strict=True)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([*header, *rows, ""]), "ascii")
