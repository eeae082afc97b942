"""VGG-Face in NumPy, from a dict of weights: what the Keras network and its files must agree with."""

import numpy as np

STAGES = {8: (1, 1, 2, 2, 2), 13: (2, 2, 3, 3, 3)}
MEAN_COLOUR = np.array([129.1863, 104.7624, 93.5940])


def convolution_names(convolutions: int) -> list[str]:
    counts = enumerate(STAGES[convolutions], start=1)
    return [f"conv{stage}_{index}" for stage, count in counts for index in range(1, count + 1)]


def random_weights(convolutions=13, filters=(2, 3, 4, 5, 6), side=2, features=7, seed=0) -> dict:
    """Layer -> (filters `[h, w, in, out]`, biases `[out]`); fc6 and fc7 as convolutions too."""
    random = np.random.default_rng(seed)
    shapes, channels = {}, 3
    for name in convolution_names(convolutions):
        maps = filters[int(name[4]) - 1]
        shapes[name] = (3, 3, channels, maps)
        channels = maps
    shapes["fc6"] = (side, side, channels, features)
    shapes["fc7"] = (1, 1, features, features)
    return {
        name: (
            random.normal(0, (2 / np.prod(shape[:3])) ** 0.5, shape).astype("float32"),
            random.normal(0, 0.1, shape[3]).astype("float32"),
        )
        for name, shape in shapes.items()
    }


def convolve(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray, padding: int) -> np.ndarray:
    """`[H, W, C]` correlated with `[h, w, C, D]`, stride 1."""
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))
    return np.einsum("ijchw,hwcd->ijd", windows, kernel) + bias


def pool(x: np.ndarray, stride: int) -> np.ndarray:
    """Maximum of 2x2."""
    windows = np.lib.stride_tricks.sliding_window_view(x, (2, 2), axis=(0, 1))
    return windows[::stride, ::stride].max(axis=(-2, -1))


def fc7(weights: dict, pixels: np.ndarray, extra_pooling: bool = False) -> np.ndarray:
    """What the last but one layer gives for `[H, W, 3]` from which the mean is subtracted."""
    x = pixels.astype("float64")
    names = [name for name in weights if name.startswith("conv")]
    for name, following in zip(names, [*names[1:], "conv6"], strict=True):
        x = np.maximum(convolve(x, *weights[name], padding=1), 0)
        if following[4] != name[4]:
            x = pool(x, 2)
    if extra_pooling:
        x = pool(x, 1)
    for name in ("fc6", "fc7"):
        x = np.maximum(convolve(x, *weights[name], padding=0), 0)
    return x.reshape(-1)
