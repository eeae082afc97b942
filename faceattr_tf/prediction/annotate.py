"""Pictures with what was predicted drawn on them: box, points, and labels in a panel beside."""

from collections.abc import Sequence

import cv2
import numpy as np

from faceattr_tf.prediction.face import Alignment, Attribute, Choice, Face, Graded, in_words

HEIGHTS = (480, 960)
"""Pictures are enlarged or shrunk to a height within these pixels, so that text stays readable."""

_LINE, _COLUMN, _MARGIN = 24, 330, 12  # pixels
_BACKGROUND, _TEXT, _DIM = (32, 32, 32), (240, 240, 240), (150, 150, 150)  # RGB
_GIVEN, _PREDICTED = (90, 220, 90), (255, 170, 40)
_ALL_LABELS = 12  # tasks of more attributes list only those that are present


def annotate_faces(
    pixels: np.ndarray,
    faces: Sequence[Face],
    *,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> np.ndarray:
    """A picture with its faces drawn, and a panel of their labels to its right.

    Boxes and points that were given or detected are green, predicted points orange, and so is the
    thin outline of what a transformer cuts out.

    Args:
        pixels: uint8 RGB `[H, W, 3]`, upright.
        faces: what was predicted for this picture.
        titles: what stands in the box of each face; by default its place, of several.
        columns: of the panel; what does not fit is left out. By default as many as are needed.

    Returns:
        uint8 RGB; height and width differ from the picture's.
    """
    height, width = pixels.shape[:2]
    scale = float(np.clip(height, *HEIGHTS)) / height
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = cv2.resize(pixels, size, interpolation=interpolation)
    lines = []
    if titles is None:
        titles = [str(number) for number in range(1, len(faces) + 1)] if len(faces) > 1 else [""]
    for title, face in zip(titles, faces, strict=bool(faces)):
        _draw_face(picture, face, scale, title)
        lines += [(f"face {title}", "", _GIVEN)] * bool(title) + _lines(face)
    rows = max(1, (picture.shape[0] - 2 * _MARGIN) // _LINE)
    columns = columns or max(1, -(-len(lines) // rows))
    panel = np.full((picture.shape[0], columns * _COLUMN + _MARGIN, 3), _BACKGROUND, np.uint8)
    for index, (label, value, colour) in enumerate(lines[: rows * columns]):
        column, row = divmod(index, rows)
        left, base = _MARGIN + column * _COLUMN, _MARGIN + row * _LINE + 17
        _write(panel, label, left, base, colour)
        _write(panel, value, left + 200, base, colour)
    return np.concatenate([picture, panel], axis=1)


def _lines(face: Face) -> list[tuple[str, str, tuple]]:
    """(label, value, colour) of each line of the panel."""
    lines = []
    for name, result in face.tasks.items():
        if isinstance(result, Choice):
            text = result.label
            if text in result.probabilities:  # it may be `unsure`
                text += f" {result.probabilities[text]:.0%}"
            text += f", {result.value:.3g}" if isinstance(result, Graded) else ""
            lines.append((name, text, _TEXT))
            continue
        if isinstance(result, Alignment):
            lines.append((name, f"{result.rotation:+.0f} deg, x {result.scale:.2f}", _TEXT))
            continue
        ranked = list(result.items())
        if ranked and isinstance(ranked[0][1], Attribute):
            ranked.sort(key=lambda item: -item[1].probability)
            if len(ranked) > _ALL_LABELS:
                ranked = [item for item in ranked if item[1].label]
        for label, value in ranked:
            if isinstance(value, Attribute):
                text = f"{in_words(value.label)} {value.probability:.0%}"
                lines.append((label, text, _TEXT if value.label is True else _DIM))
            elif not isinstance(value, tuple):  # points are drawn on the picture
                lines.append((label, f"{value:.4g}", _TEXT))
    return lines


def _draw_face(picture: np.ndarray, face: Face, scale: float, title: str) -> None:
    if face.box is not None:
        left, top, width, height = face.box
        corners = [left, top], [left + width - 1, top + height - 1]
        start, end = (_scaled(corner, scale) for corner in corners)
        cv2.rectangle(picture, start, end, _GIVEN, 2, cv2.LINE_AA)
        _write(picture, title, max(start[0], 0) + 5, max(start[1], 0) + 19, _GIVEN)
    for point in (face.landmarks or {}).values():
        cv2.circle(picture, _scaled(point, scale), 3, _GIVEN, -1, cv2.LINE_AA)
    for result in face.tasks.values():
        if isinstance(result, Alignment):
            corners = np.array([_scaled(point, scale) for point in result.outline.values()])
            cv2.polylines(picture, [corners], True, _PREDICTED, 1, cv2.LINE_AA)
        for point in result.values() if isinstance(result, dict) else ():
            if isinstance(point, tuple):
                cv2.circle(picture, _scaled(point, scale), 5, _PREDICTED, 2, cv2.LINE_AA)


def _scaled(point, scale: float) -> tuple[int, int]:
    """A point of the picture in the resized one; pixel centres are whole numbers in both."""
    return tuple(round((value + 0.5) * scale - 0.5) for value in point)


def _write(picture: np.ndarray, text: str, left: int, base: int, colour: tuple) -> None:
    cv2.putText(picture, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.52, colour, 1, cv2.LINE_AA)
