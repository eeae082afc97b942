"""From a network's response map to windows around what responds: the one place that does it.

LNets+ANet (Liu et al., ICCV 2015), section 3.1. NumPy alone; `prediction/localisation_graph.py` of
`faceattr_tf` computes the same in a TensorFlow graph.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.detection.density_peaks import density_peaks, windows
from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class WindowSettings:
    """How a response map becomes windows: choices to be measured with a network, and kept with it.

    The paper thresholds the map and takes the window around the strongest peak by the region of
    high response; it gives no figures. Here responses are what a position has above the map's
    median, as most of a picture is background, and the level of that differs between pictures.
    `fraction`, `scale` and `aspect` were measured on canvases of CelebA's frames, heads with
    shoulders, for networks of the recipe `lnet_o` that see them enlarged (README, "LNets").

    Attributes:
        count: the largest number of windows, of several faces in a picture, those of the strongest
            peaks.
        threshold: responses that are no higher than this share of the map's highest take no part.
        separation: the smallest distance in cells from a peak to the nearest higher position; at 2
            peaks are the positions that are higher than their eight neighbours.
        fraction: share of a peak's response down to which positions around it belong to its region.
        scale: factor from the side of a square as large as the region to that of one as large as
            the window.
        aspect: height of the windows by their width. Of a region, which has a few cells, the form
            is known less well than the size.
    """

    count: int = 1
    threshold: float = 0.25
    separation: float = 2.0
    fraction: float = 0.4
    scale: float = 2.6
    aspect: float = 1.22

    def check(self) -> None:
        """Raises UserError if a value makes no sense."""
        if self.count < 1 or self.count % 1:
            raise UserError(f"count {self.count}: expected a whole number from 1 on")
        if not 0 <= self.threshold < 1:
            raise UserError(f"threshold {self.threshold}: expected a share from 0 to below 1")
        if not 0 <= self.separation < math.inf:
            raise UserError(f"separation {self.separation}: expected 0 or more cells")
        if not 0 < self.fraction <= 1:
            raise UserError(f"fraction {self.fraction}: expected above 0, at most 1")
        if not 0 < self.scale < math.inf:
            raise UserError(f"scale {self.scale}: expected above 0")
        if not 0 < self.aspect < math.inf:
            raise UserError(f"aspect {self.aspect}: expected above 0")


def find_windows(response, settings: WindowSettings) -> tuple[np.ndarray, np.ndarray]:
    """The windows of one map, those of the strongest peaks first.

    Args:
        response: `[H, W]` finite numbers.
        settings: how they are found.

    Returns:
        Windows float `[P, 4]`: y0, x0, y1, x1 in cells, which may reach beyond the map (see
        `density_peaks.pixel_boxes`), and float `[P]`: how far the response of their peaks is above
        the map's median. Of an even map there are none.
    """
    settings.check()
    above = above_median(response)
    peaks = density_peaks(
        above,
        threshold=settings.threshold * above.max(initial=0.0),
        count=settings.count,
        separation=settings.separation,
    )
    regions = windows(above, peaks, settings.fraction)
    low, high = regions[:, :2], regions[:, 2:]
    side = settings.scale * np.sqrt(np.prod(high - low, axis=1, keepdims=True))
    half = side * np.sqrt([settings.aspect, 1.0 / settings.aspect]) / 2.0
    centre = (low + high) / 2.0
    return np.concatenate([centre - half, centre + half], axis=1), peaks.rho


def above_median(response) -> np.ndarray:
    """What a map's positions have above its median, 0 for those below: float `[H, W]`."""
    response = np.asarray(response, float)
    return np.maximum(response - np.median(response), 0.0) if response.size else response
