"""Where a response map points at objects: density peaks, and a window around each.

LNets+ANet (Liu et al., ICCV 2015), section 3.1, after Rodriguez and Laio, "Clustering by fast search
and find of density peaks", Science 2014. Arrays in, arrays out: NumPy and SciPy, no network.

A position is a cell of the map, (row, column) from the upper left; cell i spans [i, i + 1).
"""

import dataclasses
import math

import numpy as np
from scipy import ndimage

from data_pipelines.errors import UserError


@dataclasses.dataclass(frozen=True)
class DensityPeaks:
    """The peaks of one map, those of the largest d first, and which positions belong to which.

    Attributes:
        positions: int `[P, 2]` rows and columns.
        rho: float `[P]`, the response there.
        sigma: float `[P]`, the distance in cells to the nearest position of higher response.
        d: float `[P]`, what the peaks are ranked by.
        cluster: int `[H, W]`, the index of the peak that a position belongs to; -1 where the
            response is not above the threshold.
    """

    positions: np.ndarray
    rho: np.ndarray
    sigma: np.ndarray
    d: np.ndarray
    cluster: np.ndarray


def density_peaks(
    response, threshold: float = 0.0, count: int | None = None, separation: float = 2.0
) -> DensityPeaks:
    """Finds the peaks of a map by response and distance to the next higher one (equation 3).

    With rho_i the response at position i and sigma_i the distance to the nearest position of
    higher response, peaks are the positions of the largest d_i = sqrt(rho_i^2 + sigma_i^2). What
    the paper leaves open is decided like this:

    - Only positions above the threshold take part.
    - Of equal responses, the one that comes first (row by row) counts as higher, so that a plateau
      has one peak. Of several nearest higher positions, the highest is taken.
    - The highest position of all has none above it: its sigma is the largest distance to any
      position that takes part, as in Rodriguez and Laio.
    - rho and sigma have different units: in d each is divided by its largest value. Neither the
      scale of the responses nor that of the map changes the order, and the highest position, with
      d = sqrt(2), is first.
    - The slopes of a high peak have a larger d than a lower peak: `separation` bounds sigma, as
      `threshold` bounds rho.

    A position belongs to the peak at which the chain of nearest higher positions from it ends.

    The time is of the order of N log N for N positions, on any map: see `_nearest_higher`.

    Args:
        response: `[H, W]` finite numbers.
        threshold: at least 0; a position takes part if its response is greater.
        count: the largest number of peaks; None: all.
        separation: the smallest sigma of a peak, in cells; the highest position is always one. At
            2 these are the positions that are higher than their eight neighbours; 0: all. Where
            noise gives an object peaks further apart, they divide it between them: smooth the map
            first, or ask for more separation.

    Raises:
        UserError: the map has another rank or a value that is not finite, or an argument is out of
            its range.
    """
    response = _checked(response)
    if not (0 <= threshold < math.inf):
        raise UserError(f"threshold {threshold}: expected 0 or more")
    if count is not None and count < 1:
        raise UserError(f"count {count}: expected 1 or more, or None")
    if not (0 <= separation < math.inf):
        raise UserError(f"separation {separation}: expected 0 or more cells")
    taking_part = np.flatnonzero(response > threshold)
    cluster = np.full(response.shape, -1)
    if not taking_part.size:
        nothing = np.zeros(0)
        return DensityPeaks(np.zeros((0, 2), int), nothing, nothing, nothing, cluster)

    # From here on a position is known by its place in the order, 0 for the highest.
    falling = np.argsort(-response.ravel()[taking_part], kind="stable")
    y, x = np.divmod(taking_part[falling], response.shape[1])
    rho = response[y, x]
    higher, squared = _nearest_higher(y, x, response.shape)
    sigma = np.sqrt(squared)
    # Not np.hypot, which rounds otherwise than what other programs compute of the definition.
    d = np.sqrt((rho / rho[0]) ** 2 + (sigma / (sigma[0] or 1.0)) ** 2)

    apart = sigma >= separation
    apart[0] = True
    peaks = np.flatnonzero(apart)
    peaks = peaks[np.argsort(-d[peaks], kind="stable")][:count]

    end = higher
    end[peaks] = peaks
    while not np.array_equal(end, further := end[end]):
        end = further
    index = np.empty(len(y), int)
    index[peaks] = np.arange(len(peaks))
    cluster[y, x] = index[end]
    positions = np.stack([y[peaks], x[peaks]], axis=1)
    return DensityPeaks(positions, rho[peaks], sigma[peaks], d[peaks], cluster)


def _nearest_higher(y, x, shape) -> tuple[np.ndarray, np.ndarray]:
    """Place of the nearest higher position, and the square of its distance.

    Rings around the positions are searched, each up to twice the squared radius of the one before,
    by those positions that have found nothing yet. Two of these lie further apart than the radius
    searched so far, or the lower one would have found the higher. So the larger a ring, the fewer
    are left, and it costs no more than about four comparisons per cell of the map, whatever the
    map is like. When a ring has more cells than there are positions, these are searched instead.

    Args:
        y, x: int `[N]` rows and columns in falling order of response.
        shape: height and width of the map.

    Returns:
        Two int `[N]`; for place 0 they are 0 and the largest squared distance to any position.
    """
    count, (height, width) = len(y), shape
    # Padded, so that no ring leaves the array; `count` is lower than every place in it.
    stride = 3 * width - 2
    row, column = y + height - 1, x + width - 1
    places = np.full((3 * height - 2, stride), count)
    places[row, column] = np.arange(count)
    places, cell = places.ravel(), row * stride + column

    higher, squared = np.zeros(count, int), np.zeros(count, int)
    squared[0] = ((y - y[0]) ** 2 + (x - x[0]) ** 2).max()
    nothing = np.iinfo(int).max
    left = np.arange(1, count)
    inner, outer = 0, 1
    while left.size:
        down, right = (min(math.isqrt(outer), side - 1) for side in shape)
        dy, dx = np.ogrid[-down : down + 1, -right : right + 1]
        distance = dy**2 + dx**2
        ring = (distance > inner) & (distance <= outer)
        if np.count_nonzero(ring) < count:
            distance = distance[ring][:, None]
            found = places[(dy * stride + dx)[ring][:, None] + cell[left]]
        else:
            distance = (y[:, None] - y[left]) ** 2 + (x[:, None] - x[left]) ** 2
            found = np.arange(count)[:, None]
        # One number for both: the nearest, and of equally near ones the highest.
        key = np.where(found < left, distance * count + found, nothing).min(0, initial=nothing)
        known = key < nothing
        squared[left[known]], higher[left[known]] = np.divmod(key[known], count)
        left = left[~known]
        inner, outer = outer, 2 * outer
    return higher, squared


def windows(response, peaks: DensityPeaks, fraction: float = 0.5) -> np.ndarray:
    """A window around each peak, as large as the region of high response.

    The region of a peak holds the positions of its cluster that are connected with it (by sides or
    corners) through responses of at least `fraction` of its own. The window is the rectangle that
    has, evenly filled, the region's centre of mass and variances, weighted by the response: that
    of a rectangular plateau is the plateau itself. The paper is silent about size and form; against
    the region's bounding box this is less moved by single cells at the border, and not rounded to
    cells.

    Args:
        response: `[H, W]`, the map that the peaks were found in.
        peaks: what `density_peaks` found.
        fraction: above 0, up to 1: at 0.5 a region is measured at half its height.

    Returns:
        float `[P, 4]`: y0, x0, y1, x1 in cells, in the order of the peaks. They may reach beyond
        the map.

    Raises:
        UserError: the map is no map or not that of the peaks, or an argument is out of its range.
    """
    response = _checked(response)
    if response.shape != peaks.cluster.shape:
        raise UserError(
            f"response {response.shape}: expected the map of the peaks, {peaks.cluster.shape}"
        )
    if not 0 < fraction <= 1:
        raise UserError(f"fraction {fraction}: expected above 0, at most 1")
    found = np.zeros((len(peaks.rho), 4))
    for index, part in enumerate(ndimage.find_objects(peaks.cluster + 1)):
        start = np.array([part[0].start, part[1].start])
        high = response[part] >= fraction * peaks.rho[index]
        regions, _ = ndimage.label((peaks.cluster[part] == index) & high, np.ones((3, 3)))
        own = regions == regions[tuple(peaks.positions[index] - start)]
        weights = response[part][own]
        cells = np.argwhere(own) + 0.5
        centre = np.average(cells, axis=0, weights=weights)
        variance = np.average((cells - centre) ** 2, axis=0, weights=weights)
        half = np.sqrt(12.0 * variance + 1.0) / 2.0
        found[index] = np.concatenate([start + centre - half, start + centre + half])
    return found


def pixel_boxes(windows, stride: float, offset: float) -> np.ndarray:
    """Windows of a fully convolutional network's map as boxes in the picture that it looked at.

    Args:
        windows: `[P, 4]` y0, x0, y1, x1 in cells.
        stride: pixels from one cell to the next.
        offset: the pixel in the centre of the first cell's receptive field; the centre of the
            picture's first pixel is 0.

    Returns:
        float `[P, 4]` left, top, width, height in pixels, as `Detection.box`: the pixels from
        `left` to `left + width - 1`. They may reach beyond the picture.
    """
    y0, x0, y1, x1 = np.asarray(windows, float).T
    left, top = (offset + 0.5 + stride * (low - 0.5) for low in (x0, y0))
    return np.stack([left, top, stride * (x1 - x0), stride * (y1 - y0)], axis=1)


def _checked(response) -> np.ndarray:
    response = np.asarray(response, float)
    if response.ndim != 2:
        raise UserError(f"response {response.shape}: expected a map, [H, W]")
    if not np.isfinite(response).all():
        row, column = np.argwhere(~np.isfinite(response))[0]
        raise UserError(
            f"response: {response[row, column]} at row {row}, column {column}: expected numbers"
        )
    return response
