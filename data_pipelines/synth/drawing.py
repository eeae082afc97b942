"""Cartoon faces on which all 40 CelebA attributes, the pose and five landmarks can be seen.

Every attribute has a trace of its own that no other attribute covers: hair colours share the hair
in bands, a hat sits above the crown that may be bald, each part of a beard has its own place, and
a bald head keeps the hair at its sides. The drawings stand in for photographs in tests and
demonstrations, where labels and landmarks have to be exact and nobody's face may be copied.
"""

import math
from collections.abc import Mapping

import cv2
import numpy as np

from data_pipelines.synth.head import DARK, YAW, Head, both, colour_of, ellipse, mix, polygon
from data_pipelines.tasks import CELEBA_ATTRIBUTES, POSE_CLASSES

_BEARD = (84, 50, 32)
_WHITE = (250, 250, 248)
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
    if pose not in YAW:
        raise ValueError(f"pose {pose!r} is none of {', '.join(POSE_CLASSES)}")
    height, width = size
    image = _background(rng, height, width)
    face = Head(rng, rng if person is None else person, attributes, pose, image)
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
    eyes = face.turn(both(np.array([[face.eye, -10.0]]))[:, 0])
    landmarks = face.pixels(np.concatenate([eyes, nose, mouth])).astype(np.float32)
    outline = face.pixels(face.outline(np.linspace(0, 2 * math.pi, 64)))
    low, high = outline.min(0), outline.max(0)
    return image, landmarks, np.concatenate([low, high - low]).astype(np.float32)


def _background(rng, height, width):
    top, bottom = (np.array(colour_of(rng.uniform(), 0.35, rng.uniform(0.45, 0.9))) for _ in "ab")
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
    colour = mix(tuple(map(int, top)), (255, 255, 255), rng.uniform(0.3, 0.6))
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
    cloth = colour_of(hue, 0.75, 0.42 if male else 0.9)
    face.fill(polygon((-neck, 30), (neck, 30), (neck, 80), (-neck, 80)), face.tint(DARK, 0.1), 2)
    side = polygon((neck, 62), (shoulder, 72), (shoulder + 8, 125), (0, 125), (0, 72 + 14 * male))
    face.fill(both(side), cloth, 2)
    if face.has("Double_Chin"):
        face.fill(ellipse(0, 50, 32, 22), face.tint((170, 70, 60), 0.5), 4)
    if face.has("Straight_Hair"):
        # Long ends that reach the shoulders.
        face.fill(both(polygon((47, 0), (69, 0), (71, 82), (46, 82))), colours[-1], 1.5)
        for x in (52, 58, 64):
            face.stroke(both(polygon((x, 20), (x, 82))), mix(colours[-1], DARK, 0.5), 1)
    edges = np.linspace(-50, 30, len(colours) + 1)
    for top, bottom, colour in zip(edges[:-1], edges[1:], colours, strict=True):
        if face.has("Wavy_Hair"):
            for y in np.arange(top + 4, bottom, 14):
                face.fill(both(ellipse(69, y + 3, 12, 9)), colour, 1.5)
        down = np.linspace(top, bottom, 6)
        outer = np.stack([69 - np.maximum(0, -26 - down) ** 2 / 28, down], -1)
        face.fill(both(np.concatenate([outer, polygon((36, bottom), (36, top))])), colour)
    if face.has("Attractive"):
        # Cartoonists say "attractive" with a sparkle.
        angles = np.arange(8) * math.pi / 4
        radius = np.where(np.arange(8) % 2, 7, 24)[:, None]
        star = radius * np.stack([np.cos(angles), np.sin(angles)], -1) + [64, -66]
        face.fill(both(star), (255, 212, 24), 1.5)


def _head(face):
    face.fill(both(ellipse(50, -3, 7, 11)), face.tint(DARK, 0.12), 1.5)
    face.fill(face.outline(np.linspace(0, 2 * math.pi, 64)), face.skin, 2)


def _top_of_head(face):
    colour = _hair_colours(face)[0]
    dark = mix(colour, DARK, 0.5) if colour != _HAIR["Black_Hair"] else (70, 70, 84)
    if face.has("Bald"):
        face.fill(ellipse(-13, -53, 13, 7), mix(face.skin, _WHITE, 0.8))
    else:
        face.fill(face.band(math.pi + 0.7, 2 * math.pi - 0.7, 0.7, 1.12), colour, 1)
    if not face.has("Receding_Hairline"):
        temple = polygon((12, -47), (46, -52), (54, -14), (41, -16), (33, -36))
        face.fill(both(temple), colour)
    if face.has("Bangs"):
        tips = np.linspace(-22, 22, 9)
        fringe = np.stack([tips, np.where(np.arange(9) % 2, -33, -40)], -1)
        face.fill(np.concatenate([fringe, polygon((20, -50), (0, -54), (-20, -50))]), colour, 1.5)
        for x in (-11, 0, 11):
            face.stroke(polygon((x, -50), (x, -40)), dark, 1)
    if face.has("Wearing_Hat"):
        face.fill(polygon((-33, -64), (-29, -93), (29, -93), (33, -64)), face.hat, 2)
        face.fill(polygon((-32, -66), (-31, -73), (31, -73), (32, -66)), mix(face.hat, _WHITE, 0.7))
        face.fill(ellipse(0, -64, 52, 5), face.hat, 2)


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
        arc = ellipse(30, 22, 12, 14, -0.9, 1.1)
        face.stroke(face.turn(both(arc)), face.tint(DARK, 0.6), 3)
    if face.has("Rosy_Cheeks"):
        face.fill(face.turn(both(ellipse(31, 22, 11, 10))), face.tint((255, 40, 110), 0.8))
    if face.has("High_Cheekbones"):
        bone = polygon((19, 11), (29, 2), (46, -5), (47, 5), (34, 12))
        face.fill(face.turn(both(bone)), (255, 240, 120), 2)
    if not face.has("Young"):
        folds = face.tint(DARK, 0.75)
        face.stroke(face.turn(both(polygon((13, 8), (23, 16), (27, 30), (25, 42)))), folds, 3.5)
        for y in (-48, -43):
            face.stroke(face.turn(polygon((-27, y), (0, y + 2), (27, y))), folds, 2.5)
        for y in (-20, -10, 0):
            face.stroke(face.turn(both(polygon((36, -10), (46, y)))), folds, 2.5)


def _eyes(face):
    x, y = face.eye, -10
    if face.has("Heavy_Makeup"):
        shadow = ellipse(x + 4, y - 1, 19, 15, math.pi, 2 * math.pi)
        face.fill(face.turn(both(shadow)), (150, 20, 225))
    if face.has("Bags_Under_Eyes"):
        bag = np.concatenate([ellipse(x, y + 5, 14, 17, 0, math.pi), polygon((x, y + 9))])
        face.fill(face.turn(both(bag)), face.tint((84, 40, 110), 0.75), 1)
    opening = 2.0 if face.has("Narrow_Eyes") else 9.5
    face.fill(face.turn(both(ellipse(x, y, 13, opening))), _WHITE, 2)
    iris = min(6.0, opening)
    face.fill(face.turn(both(ellipse(x, y, 5.5, iris))), face.iris)
    face.fill(face.turn(both(ellipse(x, y, 2.5, min(3.0, iris)))), DARK)
    if not face.has("Male"):
        for lash in (4, 9, 13):
            line = polygon((x + lash - 2, y - opening * (1.1 - lash / 20)), (x + lash + 4, y - 15))
            face.stroke(face.turn(both(line)), DARK, 1.5)
    if face.has("Eyeglasses"):
        face.stroke(face.turn(both(ellipse(x, y, 17, 15))), (12, 12, 20), 4)
        face.stroke(face.turn(polygon((17 - x, y - 3), (x - 17, y - 3))), (12, 12, 20), 4)
        face.stroke(face.turn(both(polygon((x + 17, y - 3), (50, y - 5)))), (12, 12, 20), 4)
    peak = -13 if face.has("Arched_Eyebrows") else 2
    brow = polygon((x - 14, -28), (x + 2, -28 + peak), (x + 15, -27))
    width = 10 if face.has("Bushy_Eyebrows") else 2.5
    face.stroke(face.turn(both(brow)), (30, 20, 18), width)


def _nose(face):
    width = 19 if face.has("Big_Nose") else 6
    colour = face.tint((190, 70, 30), 0.6)
    if face.has("Pointy_Nose"):
        side = polygon((0, -22), (width, 10), (0, 14))
        face.fill(face.turn(both(side), 18), colour, 1.5)
        face.fill(face.turn(side, 18), face.tint((90, 30, 20), 0.8))
    else:
        face.fill(face.turn(ellipse(0, 6, width, 6 + width / 5), 18), colour, 1.5)
        face.fill(face.turn(ellipse(-1, 4, width / 2, 3), 18), mix(face.skin, _WHITE, 0.6))
    return face.turn(polygon((0, 6)), 18)


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
        side = polygon((0, 12), (15, 13), (32, 26), (13, 24), (0, 21))
        face.fill(face.turn(both(side), 6), (24, 16, 16))
    if face.has("Goatee"):
        tuft = polygon((-10, 45), (10, 45), (9, 60), (0, 74), (-9, 60))
        face.fill(face.turn(tuft, 3), (22, 16, 18), 1)
    colour = (236, 0, 50) if face.has("Wearing_Lipstick") else face.tint((110, 60, 50), 0.4)
    face.fill(between(middle - gap - lip, middle + gap + lip), colour, 1.2)
    if gap.any():
        face.fill(between(middle - gap, middle + gap), (40, 8, 14))
        face.fill(between(middle - gap, middle - gap + 0.9 * gap), _WHITE)
    else:
        face.stroke(face.turn(np.stack([x, middle], -1), 3), DARK, 1.5)
    return face.turn(np.stack([x[[0, -1]], middle[[0, -1]]], -1), 3)


def _jewellery(face):
    if face.has("Wearing_Earrings"):
        face.fill(both(ellipse(57, 17, 9, 9)), (0, 226, 232), 2)
    if face.has("Wearing_Necktie"):
        tie = polygon((-11, 63), (11, 63), (7, 73), (24, 112), (-24, 112), (-7, 73))
        face.fill(tie, (60, 230, 20), 2)
    if face.has("Wearing_Necklace"):
        along = np.linspace(-1, 1, 9)[::-1, None, None]
        places = np.concatenate([32 * along, 76 - 15 * along**2], -1)
        face.fill(places[::2] + ellipse(0, 0, 5.5, 5.5), _WHITE, 1)
        face.fill(places[1::2] + ellipse(0, 0, 5.5, 5.5), _WHITE, 1)
