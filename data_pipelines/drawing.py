"""Cartoon faces on which all 40 CelebA attributes, the pose and five landmarks can be seen.

Every attribute has a trace of its own that no other attribute covers: hair colours share the hair
in bands, a hat sits above the crown that may be bald, each part of a beard has its own place, and
a bald head keeps the hair at its sides. The drawings stand in for photographs in tests and
demonstrations, where labels and landmarks have to be exact and nobody's face may be copied.

Face coordinates: x right, y down, one unit is one pixel of a 178x218 picture, (0, 0) lies between
eyes and nose. Inner features sit on a cylinder that turns with the pose, so that their distances
change as on a real head.
"""

import math
from collections.abc import Mapping

import cv2
import numpy as np

from data_pipelines.tasks import CELEBA_ATTRIBUTES, POSE_CLASSES

_YAW = dict(zip(POSE_CLASSES, (-28.0, -14.0, 0.0, 14.0, 28.0), strict=True))  # degrees
_CYLINDER = 52.0  # radius of the head, face units
_DARK = (35, 28, 30)
_BEARD = (84, 50, 32)
_WHITE = (250, 250, 248)
_SIDES = np.array([[[-1, 1]], [[1, 1]]])
_CIRCLE = np.linspace(0, 2 * math.pi, 24)
_HAIR = {
    "Black_Hair": (20, 18, 24),
    "Brown_Hair": (136, 74, 28),
    "Gray_Hair": (158, 160, 168),
    "Blond_Hair": (248, 220, 110),
}
_RED_HAIR = (250, 96, 10)  # none of the four labelled colours


def draw_face(
    rng: np.random.Generator,
    attributes: Mapping[str, bool],
    pose: str = "frontal",
    size: tuple[int, int] = (218, 178),
    person: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One picture of a face under varied light, place, size, tilt and background.

    Args:
        rng: decides what varies from picture to picture.
        attributes: CelebA names that are drawn (true) or not (false or absent).
        pose: one of `tasks.POSE_CLASSES`; "left" looks to the left side of the picture.
        size: height and width in pixels.
        person: decides what stays the same in all pictures of one identity (skin tone, distance of
            the eyes, colours of eyes and clothes); `rng` where it is absent.

    Returns:
        The picture uint8 `[H, W, 3]` (RGB), the landmarks float32 `[5, 2]` in the order of
        `tasks.LANDMARK_NAMES` and the box of the head float32 `[4]` (left, top, width, height),
        both in pixels with (0, 0) at the centre of the first pixel.

    Raises:
        ValueError: an attribute or a pose that does not exist.
    """
    for name in attributes:
        if name not in CELEBA_ATTRIBUTES:
            raise ValueError(f"{name!r} is none of CelebA's attributes")
    if pose not in _YAW:
        raise ValueError(f"pose {pose!r} is none of {', '.join(POSE_CLASSES)}")
    height, width = size
    image = _background(rng, height, width)
    face = _Face(rng, rng if person is None else person, attributes, pose, image)
    _clothes_and_hair(face)
    _head(face)
    _top_of_head(face)
    _cheeks_and_jaw(face)
    _eyes(face)
    nose = _nose(face)
    mouth = _mouth(face)
    _jewellery(face)
    image = _light(rng, image)
    if face.has("Blurry"):
        image = cv2.GaussianBlur(image, (0, 0), 1.8 * face.scale)
    eyes = face.turn(_both(np.array([[face.eye, -10.0]]))[:, 0])
    landmarks = face.pixels(np.concatenate([eyes, nose, mouth])).astype(np.float32)
    outline = face.pixels(face.outline(np.linspace(0, 2 * math.pi, 64)))
    low, high = outline.min(0), outline.max(0)
    return image, landmarks, np.concatenate([low, high - low]).astype(np.float32)


class _Face:
    """One face's geometry and colours, and a pen that draws polygons given in face coordinates."""

    def __init__(self, rng, person, attributes, pose, image):
        height, width = image.shape[:2]
        self.image = image
        self.attributes = attributes
        tone = person.uniform()
        if self.has("Pale_Skin"):
            self.skin = _mix((255, 244, 240), (246, 232, 228), tone)
        else:
            self.skin = _mix((234, 188, 148), (196, 142, 102), tone)
        self.eye = person.uniform(19.0, 21.5)
        self.hue = person.uniform()
        self.hat = _colour(rng.uniform(0.3, 0.8), 0.85, 0.6)
        self.iris = _colour(person.uniform(), 0.8, 0.55)
        self.scale = min(width / 178, height / 200) * rng.uniform(0.96, 1.04)
        tilt = math.radians(rng.uniform(-5, 5))
        self.yaw = math.radians(_YAW[pose] + rng.uniform(-3, 3))
        self.pitch = rng.uniform(-2, 2)
        self.across = self.scale * np.array(
            [[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]]
        )
        centre = np.array([(width - 1) / 2, (height - 1) / 2 + 2 * self.scale])
        self.centre = centre + rng.uniform(-3, 3, 2) * self.scale

    def has(self, name: str) -> bool:
        return bool(self.attributes.get(name, False))

    def tint(self, colour, share):
        return _mix(self.skin, colour, share)

    def turn(self, points, depth=0.0):
        """Points `[..., 2]` of the unturned face after the turn of the head."""
        angle = np.arcsin(np.clip(points[..., 0] / _CYLINDER, -1, 1)) + self.yaw
        turned = points + [0, self.pitch]
        turned[..., 0] = (_CYLINDER + depth) * np.sin(np.clip(angle, -1.4, 1.4))
        return turned

    def outline(self, angles):
        """Points `[n, 2]` of the head's contour; angle 0 is right, a half turn lies at the chin."""
        cosine, sine = np.cos(angles), np.sin(angles)
        jaw = 1.9 if self.has("Oval_Face") else 4.6  # exponents of a superellipse
        power = 2 / np.where(sine > 0, jaw, 2.2)
        x = (45 if self.has("Oval_Face") else 49) * np.sign(cosine) * np.abs(cosine) ** power
        y = 59 * np.sign(sine) * np.abs(sine) ** power - 7
        if self.has("Chubby"):
            x = x * (1 + 0.3 * np.exp(-(((y - 18) / 17) ** 2)))
        return np.stack([x, y], -1)

    def band(self, start, end, inner, outer):
        """A strip along the contour between two angles, scaled about the head's centre."""
        centre = np.array([0.0, -7.0])
        arc = self.outline(np.linspace(start, end, 24)) - centre
        return np.concatenate([arc * outer, arc[::-1] * inner]) + centre

    def pixels(self, points):
        return points @ self.across + self.centre

    def _fixed_point(self, points):
        points = np.rint(self.pixels(points) * 16).astype(np.int32)
        return [points] if points.ndim == 2 else list(points)

    def fill(self, points, colour, edge=0.0):
        """Fills one polygon `[n, 2]` or several `[m, n, 2]`; `edge` is the width of its outline."""
        polygons = self._fixed_point(points)
        cv2.fillPoly(self.image, polygons, colour, cv2.LINE_AA, 4)
        if edge:
            self._lines(polygons, True, _mix(colour, _DARK, 0.75), edge)

    def stroke(self, points, colour, width):
        self._lines(self._fixed_point(points), False, colour, width)

    def _lines(self, polygons, closed, colour, width):
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.image, polygons, closed, colour, thickness, cv2.LINE_AA, 4)


def _mix(first, second, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _colour(hue, saturation, value):
    channels = [abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2)]
    return tuple(
        int(255 * value * (1 - saturation * (1 - min(max(channel, 0), 1)))) for channel in channels
    )


def _both(points):
    """A shape of the right half and its mirror image: `[n, 2]` becomes `[2, n, 2]`, left first."""
    return points * _SIDES


def _ellipse(x, y, width, height, start=0.0, end=2 * math.pi):
    angles = start + (end - start) * _CIRCLE / (2 * math.pi)
    points = np.empty((24, 2))
    points[:, 0] = x + width * np.cos(angles)
    points[:, 1] = y + height * np.sin(angles)
    return points


def _points(*pairs):
    return np.array(pairs, float)


def _background(rng, height, width):
    top, bottom = (np.array(_colour(rng.uniform(), 0.35, rng.uniform(0.45, 0.9))) for _ in "ab")
    rows = np.linspace(0, 1, height)[:, None, None]
    image = np.ascontiguousarray(
        np.broadcast_to(top + (bottom - top) * rows, (height, width, 3)), np.uint8
    )
    # A fine pattern: what is sharp and what is blurred shows beside the face too.
    step, slope = max(4, width // 15), rng.uniform(-0.6, 0.6) * height
    lines = [
        np.array([[x, 0], [x + slope, height]]).astype(np.int32)
        for x in np.arange(-height, width + height, step)
    ]
    colour = _mix(tuple(map(int, top)), (255, 255, 255), rng.uniform(0.3, 0.6))
    cv2.polylines(image, lines, False, colour, max(1, width // 89), cv2.LINE_AA)
    return image


def _light(rng, image):
    height, width = image.shape[:2]
    angle, strength = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.22)
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :] * math.cos(angle)
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] * math.sin(angle)
    field = 1 + strength * (across + down)
    tint = rng.uniform(0.8, 1.1) * rng.uniform(0.95, 1.05, 3)
    gain = cv2.merge([field * float(share) for share in tint])
    return cv2.multiply(image, gain, dtype=cv2.CV_8U)


def _hair_colours(face):
    return [colour for name, colour in _HAIR.items() if face.has(name)] or [_RED_HAIR]


def _clothes_and_hair(face):
    male = face.has("Male")
    colours = _hair_colours(face)
    neck = 30 if male else 17
    shoulder = 88 if male else 66
    hue = 0.55 + 0.12 * face.hue if male else 0.88 + 0.1 * face.hue
    cloth = _colour(hue, 0.75, 0.42 if male else 0.9)
    face.fill(_points((-neck, 30), (neck, 30), (neck, 80), (-neck, 80)), face.tint(_DARK, 0.1), 2)
    side = _points((neck, 62), (shoulder, 72), (shoulder + 8, 125), (0, 125), (0, 72 + 14 * male))
    face.fill(_both(side), cloth, 2)
    if face.has("Double_Chin"):
        face.fill(_ellipse(0, 50, 32, 22), face.tint((170, 70, 60), 0.5), 4)
    if face.has("Straight_Hair"):
        # Long ends that reach the shoulders.
        face.fill(_both(_points((47, 0), (69, 0), (71, 82), (46, 82))), colours[-1], 1.5)
        for x in (52, 58, 64):
            face.stroke(_both(_points((x, 20), (x, 82))), _mix(colours[-1], _DARK, 0.5), 1)
    edges = np.linspace(-50, 30, len(colours) + 1)
    for top, bottom, colour in zip(edges[:-1], edges[1:], colours, strict=True):
        if face.has("Wavy_Hair"):
            for y in np.arange(top + 4, bottom, 14):
                face.fill(_both(_ellipse(69, y + 3, 12, 9)), colour, 1.5)
        down = np.linspace(top, bottom, 6)
        outer = np.stack([69 - np.maximum(0, -26 - down) ** 2 / 28, down], -1)
        face.fill(_both(np.concatenate([outer, _points((36, bottom), (36, top))])), colour)
    if face.has("Attractive"):
        # Cartoonists say "attractive" with a sparkle.
        angles = np.arange(8) * math.pi / 4
        radius = np.where(np.arange(8) % 2, 7, 24)[:, None]
        star = radius * np.stack([np.cos(angles), np.sin(angles)], -1) + [64, -66]
        face.fill(_both(star), (255, 212, 24), 1.5)


def _head(face):
    face.fill(_both(_ellipse(50, -3, 7, 11)), face.tint(_DARK, 0.12), 1.5)
    face.fill(face.outline(np.linspace(0, 2 * math.pi, 64)), face.skin, 2)


def _top_of_head(face):
    colour = _hair_colours(face)[0]
    dark = _mix(colour, _DARK, 0.5) if colour != _HAIR["Black_Hair"] else (70, 70, 84)
    if face.has("Bald"):
        face.fill(_ellipse(-13, -53, 13, 7), _mix(face.skin, _WHITE, 0.8))
    else:
        face.fill(face.band(math.pi + 0.7, 2 * math.pi - 0.7, 0.7, 1.12), colour, 1)
    if not face.has("Receding_Hairline"):
        temple = _points((12, -47), (46, -52), (54, -14), (41, -16), (33, -36))
        face.fill(_both(temple), colour)
    if face.has("Bangs"):
        tips = np.linspace(-22, 22, 9)
        fringe = np.stack([tips, np.where(np.arange(9) % 2, -33, -40)], -1)
        face.fill(np.concatenate([fringe, _points((20, -50), (0, -54), (-20, -50))]), colour, 1.5)
        for x in (-11, 0, 11):
            face.stroke(_points((x, -50), (x, -40)), dark, 1)
    if face.has("Wearing_Hat"):
        face.fill(_points((-33, -64), (-29, -93), (29, -93), (33, -64)), face.hat, 2)
        face.fill(
            _points((-32, -66), (-31, -73), (31, -73), (32, -66)), _mix(face.hat, _WHITE, 0.7)
        )
        face.fill(_ellipse(0, -64, 52, 5), face.hat, 2)


def _cheeks_and_jaw(face):
    if face.has("5_o_Clock_Shadow"):
        stubble = face.outline(np.linspace(0.35, math.pi - 0.35, 24)) * [0.88, 0.9]
        face.fill(stubble, face.tint((60, 84, 120), 0.65))
    if not face.has("No_Beard"):
        face.fill(face.band(0.5, math.pi - 0.5, 0.88, 1.12), _BEARD)
    if face.has("Sideburns"):
        for start in (-0.2, math.pi - 0.42):
            face.fill(face.band(start, start + 0.62, 0.74, 1.02), (20, 14, 20))
    if face.has("Chubby"):
        arc = _ellipse(30, 22, 12, 14, -0.9, 1.1)
        face.stroke(face.turn(_both(arc)), face.tint(_DARK, 0.6), 3)
    if face.has("Rosy_Cheeks"):
        face.fill(face.turn(_both(_ellipse(31, 22, 11, 10))), face.tint((255, 40, 110), 0.8))
    if face.has("High_Cheekbones"):
        bone = _points((19, 11), (29, 2), (46, -5), (47, 5), (34, 12))
        face.fill(face.turn(_both(bone)), (255, 240, 120), 2)
    if not face.has("Young"):
        folds = face.tint(_DARK, 0.75)
        face.stroke(face.turn(_both(_points((13, 8), (23, 16), (27, 30), (25, 42)))), folds, 3.5)
        for y in (-48, -43):
            face.stroke(face.turn(_points((-27, y), (0, y + 2), (27, y))), folds, 2.5)
        for y in (-20, -10, 0):
            face.stroke(face.turn(_both(_points((36, -10), (46, y)))), folds, 2.5)


def _eyes(face):
    x, y = face.eye, -10
    if face.has("Heavy_Makeup"):
        shadow = _ellipse(x, y - 1, 16, 15, math.pi, 2 * math.pi)
        face.fill(face.turn(_both(shadow)), (150, 20, 225))
    if face.has("Bags_Under_Eyes"):
        bag = np.concatenate([_ellipse(x, y + 5, 14, 13, 0, math.pi), _points((x, y + 9))])
        face.fill(face.turn(_both(bag)), face.tint((84, 40, 110), 0.75), 1)
    opening = 2.0 if face.has("Narrow_Eyes") else 9.5
    face.fill(face.turn(_both(_ellipse(x, y, 13, opening))), _WHITE, 2)
    iris = min(6.0, opening)
    face.fill(face.turn(_both(_ellipse(x, y, 5.5, iris))), face.iris)
    face.fill(face.turn(_both(_ellipse(x, y, 2.5, min(3.0, iris)))), _DARK)
    if not face.has("Male"):
        for lash in (4, 9, 13):
            line = _points((x + lash - 2, y - opening * (1.1 - lash / 20)), (x + lash + 4, y - 15))
            face.stroke(face.turn(_both(line)), _DARK, 1.5)
    if face.has("Eyeglasses"):
        face.stroke(face.turn(_both(_ellipse(x, y, 17, 15))), (12, 12, 20), 4)
        face.stroke(face.turn(_points((17 - x, y - 3), (x - 17, y - 3))), (12, 12, 20), 4)
        face.stroke(face.turn(_both(_points((x + 17, y - 3), (50, y - 5)))), (12, 12, 20), 4)
    peak = -13 if face.has("Arched_Eyebrows") else 2
    brow = _points((x - 14, -28), (x + 2, -28 + peak), (x + 15, -27))
    width = 10 if face.has("Bushy_Eyebrows") else 2.5
    face.stroke(face.turn(_both(brow)), (30, 20, 18), width)


def _nose(face):
    width = 19 if face.has("Big_Nose") else 6
    colour = face.tint((190, 70, 30), 0.6)
    if face.has("Pointy_Nose"):
        side = _points((0, -22), (width, 10), (0, 14))
        face.fill(face.turn(_both(side), 18), colour, 1.5)
        face.fill(face.turn(side, 18), face.tint((90, 30, 20), 0.8))
    else:
        face.fill(face.turn(_ellipse(0, 6, width, 6 + width / 5), 18), colour, 1.5)
        face.fill(face.turn(_ellipse(-1, 4, width / 2, 3), 18), _mix(face.skin, _WHITE, 0.6))
    return face.turn(_points((0, 6)), 18)


def _mouth(face):
    along = np.linspace(-1, 1, 17)
    arch = 1 - along**2
    middle = 32 + (5 - 14 * along**2 if face.has("Smiling") else 7 * along**2 - 2)
    gap = (6.0 if face.has("Mouth_Slightly_Open") else 0) * arch
    lip = (8.5 if face.has("Big_Lips") else 3.0) * arch**0.6
    x = 19 * along

    def between(upper, lower):
        line = np.stack([x, upper], -1), np.stack([x, lower], -1)[::-1]
        return face.turn(np.concatenate(line), 3)

    if face.has("Mustache"):
        side = _points((0, 12), (15, 13), (32, 26), (13, 24), (0, 21))
        face.fill(face.turn(_both(side), 6), (24, 16, 16))
    if face.has("Goatee"):
        tuft = _points((-10, 45), (10, 45), (9, 60), (0, 74), (-9, 60))
        face.fill(face.turn(tuft, 3), (22, 16, 18), 1)
    colour = (236, 0, 50) if face.has("Wearing_Lipstick") else face.tint((110, 60, 50), 0.4)
    face.fill(between(middle - gap - lip, middle + gap + lip), colour, 1.2)
    if gap.any():
        face.fill(between(middle - gap, middle + gap), (40, 8, 14))
        face.fill(between(middle - gap, middle - gap + 0.9 * gap), _WHITE)
    else:
        face.stroke(face.turn(np.stack([x, middle], -1), 3), _DARK, 1.5)
    return face.turn(np.stack([x[[0, -1]], middle[[0, -1]]], -1), 3)


def _jewellery(face):
    if face.has("Wearing_Earrings"):
        face.fill(_both(_ellipse(57, 17, 9, 9)), (0, 226, 232), 2)
    if face.has("Wearing_Necktie"):
        tie = _points((-11, 63), (11, 63), (7, 73), (24, 112), (-24, 112), (-7, 73))
        face.fill(tie, (60, 230, 20), 2)
    if face.has("Wearing_Necklace"):
        along = np.linspace(-1, 1, 9)[::-1, None, None]
        places = np.concatenate([32 * along, 76 - 15 * along**2], -1)
        face.fill(places[::2] + _ellipse(0, 0, 5.5, 5.5), _WHITE, 1)
        face.fill(places[1::2] + _ellipse(0, 0, 5.5, 5.5), _WHITE, 1)
