"""The head of a drawn face: its measures, its turn with the pose, and a pen in face coordinates.

Face coordinates: x right, y down, one unit is one pixel of a 178x218 picture, (0, 0) lies between
eyes and nose. Inner features sit on a cylinder that turns with the pose, so that their distances
change as on a real head.
"""

import math

import cv2
import numpy as np

from data_pipelines.tasks import POSE_CLASSES

YAW = dict(zip(POSE_CLASSES, (-28.0, -14.0, 0.0, 14.0, 28.0), strict=True))  # degrees
_CYLINDER = 52.0  # radius of the head, face units
DARK = (35, 28, 30)
_SIDES = np.array([[[-1, 1]], [[1, 1]]])
_CIRCLE = np.linspace(0, 2 * math.pi, 24)


class Head:
    """One face's geometry and colours, and a pen that draws polygons given in face coordinates."""

    def __init__(self, rng, person, attributes, pose, image):
        """Arguments as of `drawing.draw_face`; `image` is drawn on."""
        height, width = image.shape[:2]
        self.image = image
        self.attributes = attributes
        tone = person.uniform()
        if self.has("Pale_Skin"):
            self.skin = mix((255, 244, 240), (246, 232, 228), tone)
        else:
            self.skin = mix((234, 188, 148), (196, 142, 102), tone)
        self.eye = person.uniform(19.0, 21.5)
        self.hue = person.uniform()
        self.hat = colour_of(rng.uniform(0.3, 0.8), 0.85, 0.6)
        self.iris = colour_of(person.uniform(), 0.8, 0.55)
        self.scale = min(width / 178, height / 200) * rng.uniform(0.96, 1.04)
        tilt = math.radians(rng.uniform(-5, 5))
        self.yaw = math.radians(YAW[pose] + rng.uniform(-3, 3))
        self.pitch = rng.uniform(-2, 2)
        self.across = self.scale * np.array(
            [[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]]
        )
        centre = np.array([(width - 1) / 2, (height - 1) / 2 + 2 * self.scale])
        self.centre = centre + rng.uniform(-3, 3, 2) * self.scale

    def has(self, name: str) -> bool:
        """Whether an attribute is to be drawn."""
        return bool(self.attributes.get(name, False))

    def tint(self, colour, share):
        """The colour of the skin with a share of another one."""
        return mix(self.skin, colour, share)

    def turn(self, points, depth=0.0):
        """Points `[..., 2]` of the unturned face after the turn of the head."""
        angle = np.arcsin(np.clip(points[..., 0] / _CYLINDER, -1, 1)) + self.yaw
        turned = points + [0, self.pitch]
        turned[..., 0] = (_CYLINDER + depth) * np.sin(np.clip(angle, -1.4, 1.4))
        return turned

    def outline(self, angles):
        """Points `[n, 2]` of the head's contour; angle 0 is right, a quarter turn the chin."""
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
        """Points `[..., 2]` in pixels of the picture."""
        return points @ self.across + self.centre

    def _fixed_point(self, points):
        points = np.rint(self.pixels(points) * 16).astype(np.int32)
        return [points] if points.ndim == 2 else list(points)

    def fill(self, points, colour, edge=0.0):
        """Fills one polygon `[n, 2]` or several `[m, n, 2]`; `edge` is the width of its outline."""
        polygons = self._fixed_point(points)
        cv2.fillPoly(self.image, polygons, colour, cv2.LINE_AA, 4)
        if edge:
            self._lines(polygons, True, mix(colour, DARK, 0.75), edge)

    def stroke(self, points, colour, width):
        """Draws one open line `[n, 2]` or several `[m, n, 2]`."""
        self._lines(self._fixed_point(points), False, colour, width)

    def _lines(self, polygons, closed, colour, width):
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.image, polygons, closed, colour, thickness, cv2.LINE_AA, 4)


def mix(first, second, share):
    """A colour between two, `share` of the way to the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def colour_of(hue, saturation, value):
    """RGB of hue, saturation and value, each in [0, 1]."""
    channels = [abs((hue * 6 + shift) % 6 - 3) - 1 for shift in (0, 4, 2)]
    return tuple(
        int(255 * value * (1 - saturation * (1 - min(max(channel, 0), 1)))) for channel in channels
    )


def both(points):
    """A shape of the right half and its mirror image: `[n, 2]` becomes `[2, n, 2]`, left first."""
    return points * _SIDES


def ellipse(x, y, width, height, start=0.0, end=2 * math.pi):
    """24 points `[24, 2]` of an ellipse, or of the arc from `start` to `end`."""
    angles = start + (end - start) * _CIRCLE / (2 * math.pi)
    points = np.empty((24, 2))
    points[:, 0] = x + width * np.cos(angles)
    points[:, 1] = y + height * np.sin(angles)
    return points


def polygon(*corners):
    """The corners as `[n, 2]`."""
    return np.array(corners, float)
