"""Where the parts of a face lie in a crop that puts its eyes at known places."""

from collections.abc import Sequence

from data_pipelines.crop.geometry import TEMPLATE, Crop
from data_pipelines.errors import UserError

_LEFT_EYE, _RIGHT_EYE, _NOSE, _MOUTH, _ = TEMPLATE
_DISTANCE = _RIGHT_EYE[0] - _LEFT_EYE[0]

NOSE = (_NOSE[1] - _LEFT_EYE[1]) / _DISTANCE
"""How far the nose's tip lies below the eyes, in distances between the eyes."""

MOUTH = (_MOUTH[1] - _LEFT_EYE[1]) / _DISTANCE
"""The same of the mouth."""

EYES_ELSEWHERE = "say where the eyes lie in the crop, in shares of its width and height: --config.model.options=\"(('eyes', (X_LEFT, X_RIGHT, Y)),)\""
"""What a user can do whose crops put no landmarks at known places."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def locate(
    parts: dict[str, Box], size: Sequence[int], crop: Crop | None, eyes: Sequence[float] = ()
) -> dict[str, Box]:
    """The boxes of parts in a crop.

    Args:
        parts: name -> box around the part of an upright face, in distances between the eyes from
            the point midway between them, x to the right and y down.
        size: height and width of the crop.
        crop: how it was made; None: as `Crop(kind="align")`.
        eyes: for crops that do not align: where the eyes lie in them, x of the left and of the
            right one (as seen), in shares of the width, and y of both, in shares of the height.

    Returns:
        Name -> box in shares of the crop's width and height; it may reach outside.

    Raises:
        UserError: the crop puts no eyes at known places and none are given, or they are none.
    """
    height, width = size
    crop = crop or Crop(kind="align")
    if eyes:
        if len(eyes) != 3 or not eyes[0] < eyes[1]:
            raise UserError(
                f"eyes {tuple(eyes)}: expected x of the left eye, x of the right one and y of both, "
                "in shares of the crop's width and height"
            )
        left, right, y = eyes
        x, distance = (left + right) / 2 * width, (right - left) * width
        y = y * height
    elif crop.kind in ("align", "affine"):
        side = min(height, width) / (1 + 2 * crop.margin)
        x, distance = width / 2, _DISTANCE * side
        y = height / 2 + (_LEFT_EYE[1] - 0.5 - crop.vertical) * side
    else:
        raise UserError(
            f"crop {crop.kind!r} puts no landmarks at known places, as this network needs them: "
            f"crop by 'align', or {EYES_ELSEWHERE}"
        )
    return {
        name: (
            (x + distance * box[0]) / width,
            (y + distance * box[1]) / height,
            (x + distance * box[2]) / width,
            (y + distance * box[3]) / height,
        )
        for name, box in parts.items()
    }


def choose(parts: dict[str, Box], names: Sequence[str]) -> dict[str, Box]:
    """The parts of these names, or all where there are none.

    Raises:
        UserError: a name is none of a part, or comes twice.
    """
    for name in names:
        if name not in parts:
            raise UserError(f"there is no part {name!r} of a face; there are: {', '.join(parts)}")
    if len(set(names)) < len(names):
        raise UserError(f"parts {', '.join(names)}: one of them comes twice")
    return {name: box for name, box in parts.items() if not names or name in names}
