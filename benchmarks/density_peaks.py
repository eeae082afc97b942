"""Time of the density peaks of a map, beside their definition over all pairs of positions.

    python -m benchmarks.density_peaks [--side=N] [--rounds=N]

The definition goes through the positions above the threshold one by one, and compares each with all
of them at once in NumPy. Its results are compared with `density_peaks`' before a ratio is printed.
The definition runs once, `density_peaks` N times, of which the median is taken.
"""

import argparse
import statistics
import time

import numpy as np

from data_pipelines.detection.density_peaks import density_peaks


def draw(side: int) -> dict[str, np.ndarray]:
    """Maps by name, the hardest known ones among them."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    noise = random.random((side, side))

    def bump(row, column, size):
        away = (rows - row * side) ** 2 + (columns - column * side) ** 2
        return np.exp(-away / (2 * (size * side) ** 2))

    faces = bump(0.3, 0.25, 0.08) + 0.8 * bump(0.7, 0.75, 0.12)
    nested = sum((rows % 2**k == 0) & (columns % 2**k == 0) for k in range(side.bit_length()))
    return {
        "noise": noise,
        "noise of 3 values": np.ceil(3 * noise),
        "two bumps": faces + 1e-9,
        "two bumps, noisy": faces * (0.9 + 0.2 * noise) + 0.01 * noise,
        "one plateau": np.ones((side, side)),
        "checkerboard": (rows + columns) % 2 + 1,
        "every fourth high": np.where((rows % 2 == 0) & (columns % 2 == 0), 1 + noise, 0.5 * noise),
        "peaks at every scale": nested + 0.1 + 0.5 * noise,
        "noise, a tenth of the positions": noise * (random.random((side, side)) < 0.1),
        "noise, a hundredth": noise * (random.random((side, side)) < 0.01),
        "two bumps above a tenth": np.maximum(faces - 0.1, 0),
        "two bumps above nine tenths": np.maximum(faces - 0.9, 0),
    }


def all_pairs(response: np.ndarray) -> np.ndarray:
    """sigma of each position with a response, row by row; equal ones in the order of rows."""
    positions = np.flatnonzero(response > 0)
    values = response.ravel()[positions]
    y, x = np.divmod(positions, response.shape[1])
    squared = np.empty(len(positions), int)
    for i in range(len(positions)):
        distance = (y - y[i]) ** 2 + (x - x[i]) ** 2
        higher = values > values[i]
        higher[:i] |= values[:i] == values[i]
        squared[i] = distance[higher].min() if higher.any() else distance.max()
    return np.sqrt(squared)


def seconds(function, *arguments, **options):
    """What a function returns, and how long it took."""
    begin = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - begin


def main() -> None:
    """Reads the options, compares results, and prints times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print(f"{options.side}x{options.side}, medians of {options.rounds} rounds")
    for name, response in draw(options.side).items():
        times = [seconds(density_peaks, response)[1] for _ in range(options.rounds)]
        expected, literal = seconds(all_pairs, response)
        found = density_peaks(response, separation=0)
        sigma = np.zeros(response.shape)
        sigma[tuple(found.positions.T)] = found.sigma
        np.testing.assert_array_equal(sigma[response > 0], expected)
        median = statistics.median(times)
        print(
            f"  {name:32} {len(expected):6} positions  {1000 * median:7.2f} ms  "
            f"all pairs {literal:8.3f} s  ratio {literal / median:6.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
