"""Convolution with filters of its own in every cell of a grid, and its interweaved operation."""

import keras
import numpy as np
from keras import ops

PADDINGS = ("same", "valid")
STRENGTHS = ("mean", "max")


@keras.saving.register_keras_serializable("faceattr_tf")
class LocallySharedConv2D(keras.layers.Layer):
    """A convolution whose filters are shared within the cells of a grid (LNets+ANet, equation 4).

    The grid divides the *output* into equal cells, as in DeepID2 (Sun et al., 2014, section 2),
    where the neurons of every 2x2 region share their weights. A position of the output is what its
    cell's filters give there on the whole map: they read their neighbours' pixels across the
    borders between cells, and zeros beyond the map's own border alone. It is the plain convolution
    with the cell's filters, cut to the cell, and costs as much arithmetic as one plain convolution:
    one gather lays out what the filters read, one batched product over the cells computes. What is
    laid out takes as much memory as the map times the filter's pixels.

    Called with a `window`, it is the **interweaved operation** (section 3.2, figure 5) on maps that
    are larger than those of training: every cell's filters run over the whole map, and their
    responses are interwoven in the cells' geometry, for every place at which the window lies within
    the map. What each place gives is the template, the responses of all cells in their places. With
    "valid" padding that is what the layer gives of the map cut to this window; with "same" padding
    it is so on a map of the window's size, and on a larger one the outermost filters read what lies
    around the window instead of zeros. A following layer, a pooling or another locally shared
    convolution takes the places as a batch, and `StrongestViews` chooses among them.

    Args:
        filters: number of filters of every cell, F.
        kernel_size: height and width of the filters.
        grid: rows and columns of cells; they must divide the output's height and width.
        padding: "same" for a border of zeros so that the output is as large as the map, or "valid".
        activation: of Keras, applied to the responses; None for none.
        kernel_initializer: of Keras, drawn for every cell as for a convolution of its own.

    Weights: `kernel` `[cells, height, width, C, F]`, cells in rows, and `bias` `[cells, F]`.

    Inputs: maps `[B, H, W, C]`. Output: `[B, H', W', F]`, or with a `window` of height h and width
    w templates `[B, H-h+1, W-w+1, h', w', F]`, at the window's places in rows. Strides are 1.

    Raises:
        ValueError: an argument is none of these, the grid does not divide the output, or the window
            is larger than the maps.

    Example:
        >>> layer = LocallySharedConv2D(8, (3, 3), grid=(5, 4), padding="valid")
        >>> layer(keras.ops.ones((2, 12, 10, 3))).shape
        TensorShape([2, 10, 8, 8])
        >>> layer(keras.ops.ones((2, 16, 11, 3)), window=(12, 10)).shape
        TensorShape([2, 5, 2, 10, 8, 8])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: tuple[int, int],
        grid: tuple[int, int],
        padding: str = "same",
        activation=None,
        kernel_initializer="glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (("kernel_size", kernel_size), ("grid", grid), ("filters", (filters,))):
            if any(number < 1 for number in value):
                raise ValueError(f"{name} is {value}; expected whole numbers from 1 on")
        if padding not in PADDINGS:
            raise ValueError(f"padding is {padding!r}; expected one of {', '.join(PADDINGS)}")
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.grid = tuple(grid)
        self.padding = padding
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        """Creates `kernel` and `bias`, which any size of the maps has in common."""
        cells = self.grid[0] * self.grid[1]
        shape = (cells, *self.kernel_size, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=self._draw)
        self.bias = self.add_weight(name="bias", shape=(cells, self.filters), initializer="zeros")

    def call(self, inputs, window: tuple[int, int] | None = None):
        """Maps `[B, H, W, C]` -> `[B, H', W', F]`, or templates, see the class."""
        shape = self.compute_output_shape(inputs.shape, window)
        if self.padding == "same":
            borders = [((length - 1) // 2, length // 2) for length in self.kernel_size]
            inputs = ops.pad(inputs, [(0, 0), *borders, (0, 0)])
        if window is None:
            return self.activation(self._convolve(inputs, shape[1:3]))
        return self.activation(self._interweave(inputs, shape[-3:-1]))

    def compute_output_shape(self, input_shape, window=None):
        """`[B, H', W', F]`, or that of the templates where there is a window."""
        batch, *size, _ = input_shape
        outputs = tuple(window or size)
        if None in outputs:
            raise ValueError(f"maps have shape {input_shape}; expected a known height and width")
        if self.padding == "valid":
            outputs = tuple(np.subtract(outputs, self.kernel_size) + 1)
        outputs = tuple(map(int, outputs))
        if min(outputs) < 1 or any(np.remainder(outputs, self.grid)):
            raise ValueError(
                f"a grid of {self.grid[0]}x{self.grid[1]} cells does not divide an output of "
                f"{outputs[0]}x{outputs[1]}"
            )
        if window is None:
            return (batch, *outputs, self.filters)
        places = tuple(
            None if length is None else length - part + 1
            for length, part in zip(size, window, strict=True)
        )
        if any(number is not None and number < 1 for number in places):
            raise ValueError(f"the window {tuple(window)} is larger than the maps {tuple(size)}")
        return (batch, *places, *outputs, self.filters)

    def compute_output_spec(self, inputs, window=None):
        """As `compute_output_shape`, which Keras would not tell of the window."""
        shape = self.compute_output_shape(inputs.shape, window)
        return keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self):
        """The arguments, for saving."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "grid": self.grid,
            "padding": self.padding,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def _draw(self, shape, dtype):
        values = self.kernel_initializer(shape, dtype)
        if isinstance(self.kernel_initializer, keras.initializers.VarianceScaling):
            # It takes the cells for pixels of one filter, and its variance is that much too small.
            values = values * shape[0] ** 0.5
        return values

    def _convolve(self, maps, outputs):
        """Padded maps -> `[B, H', W', F]`, by one product for every cell."""
        (rows, columns), (height, width) = self.grid, np.floor_divide(outputs, self.grid)
        cells, *kernel, channels, filters = self.kernel.shape
        # What every position reads: [rows, columns, height, width, kernel height, kernel width].
        down = np.arange(outputs[0]).reshape(rows, 1, height, 1, 1, 1)
        across = np.arange(outputs[1]).reshape(1, columns, 1, width, 1, 1)
        down = down + np.arange(kernel[0])[:, None]
        across = across + np.arange(kernel[1])
        places = (down * maps.shape[2] + across).reshape(cells, -1)
        area = int(np.prod(kernel)) * channels
        pixels = ops.reshape(maps, (-1, maps.shape[1] * maps.shape[2], channels))
        patches = ops.reshape(_take(pixels, places), (cells, -1, area))
        responses = ops.matmul(patches, ops.reshape(self.kernel, (cells, area, filters)))
        responses = responses + ops.cast(self.bias, responses.dtype)[:, None]
        responses = ops.reshape(responses, (rows, columns, -1, height, width * filters))
        responses = ops.transpose(responses, (2, 0, 3, 1, 4))
        return ops.reshape(responses, (-1, *outputs, filters))

    def _interweave(self, maps, outputs):
        """Padded maps -> `[B, rows, columns, h', w', F]`, by one convolution with all filters."""
        cells, *kernel, channels, filters = self.kernel.shape
        every = ops.reshape(
            ops.transpose(self.kernel, (1, 2, 3, 0, 4)), (*kernel, channels, cells * filters)
        )
        responses = ops.conv(maps, every, padding="valid", data_format="channels_last")
        responses = responses + ops.cast(ops.reshape(self.bias, (-1,)), responses.dtype)
        _, height, width, _ = ops.shape(responses)
        row, column = (
            np.arange(length) * parts // length
            for length, parts in zip(outputs, self.grid, strict=True)
        )
        cell = row[:, None] * self.grid[1] + column
        down = ops.arange(height - outputs[0] + 1)[:, None] + np.arange(outputs[0])
        across = ops.arange(width - outputs[1] + 1)[:, None] + np.arange(outputs[1])
        places = (down[:, None, :, None] * width + across[None, :, None, :]) * cells + cell
        templates = _take(
            ops.reshape(responses, (-1, height * width * cells, filters)),
            ops.reshape(places, (1, -1)),
        )
        return ops.reshape(templates, (-1, *ops.shape(places), filters))


@keras.saving.register_keras_serializable("faceattr_tf")
class StrongestViews(keras.layers.Layer):
    """The views of the strongest window, from the templates of every one: see the two functions.

    Args:
        offsets: as `window_views` takes them; `((0, 0),)` for the strongest window alone.
        strength: as `strongest_window` takes it.

    Input: templates `[B, rows, columns, h, w, F]`. Output: views `[B, V, h, w, F]`.

    Raises:
        ValueError: `strength` is none that exists.

    Example:
        >>> layer = StrongestViews(((0, 0), (0, 1)))
        >>> layer(keras.ops.ones((2, 5, 2, 4, 3, 80))).shape
        TensorShape([2, 2, 4, 3, 80])
    """

    def __init__(self, offsets=((0, 0),), strength: str = "mean", **kwargs):
        super().__init__(**kwargs)
        _check_strength(strength)
        self.offsets = tuple(map(tuple, offsets))
        self.strength = strength

    def call(self, inputs):
        """Templates `[B, rows, columns, h, w, F]` -> `[B, V, h, w, F]`."""
        return window_views(inputs, strongest_window(inputs, self.strength), self.offsets)

    def compute_output_shape(self, input_shape):
        """`[B, V, h, w, F]`."""
        return (input_shape[0], len(self.offsets), *input_shape[3:])

    def get_config(self):
        """The arguments, for saving."""
        return {**super().get_config(), "offsets": self.offsets, "strength": self.strength}


def strongest_window(templates, strength: str = "mean"):
    """The place at which the whole template responds most (LNets+ANet, equation 5).

    A place's response map is the mean of its channels, as LNet's is. Equation 5 takes the maximum
    of the map at every place, "max" here, and of these the largest. Neighbouring places share it
    where it is one cell's response at one and the same pixel, so that it finds the place to a
    cell only. "mean" has the geometry of all cells decide, and is the default.

    Args:
        templates: `[B, rows, columns, h, w, F]` of the interweaved operation, or of layers after it
            that took the places as a batch.
        strength: of a place, the "mean" or the "max" of its response map.

    Returns:
        int32 `[B, 2]`: row and column of the window in the map, the first of equal ones.

    Raises:
        ValueError: `strength` is none of these.
    """
    _check_strength(strength)
    reduce = {"mean": ops.mean, "max": ops.max}[strength]
    responses = reduce(ops.mean(ops.cast(templates, "float32"), axis=-1), axis=(3, 4))
    _, rows, columns = ops.shape(responses)
    place = ops.argmax(ops.reshape(responses, (-1, rows * columns)), axis=-1)
    place = ops.cast(place, "int32")
    return ops.stack([place // columns, place % columns], axis=-1)


def window_views(templates, window, offsets):
    """The templates around a window, the several views of h(4) of LNets+ANet, section 3.2.

    Args:
        templates: `[B, rows, columns, h, w, F]`, see `strongest_window`.
        window: int32 `[B, 2]`, row and column of a place.
        offsets: (rows, columns) from there to each of V views; what lies beyond the places that
            exist is the nearest one.

    Returns:
        `[B, V, h, w, F]`.
    """
    batch, rows, columns = ops.shape(templates)[:3]
    places = window[:, None] + np.asarray(offsets, "int32")
    row = ops.clip(places[..., 0], 0, rows - 1)
    column = ops.clip(places[..., 1], 0, columns - 1)
    index = (ops.arange(batch, dtype="int32")[:, None] * rows + row) * columns + column
    return ops.take(ops.reshape(templates, (-1, *templates.shape[3:])), index, axis=0)


def _check_strength(strength):
    if strength not in STRENGTHS:
        raise ValueError(f"strength is {strength!r}; expected one of {', '.join(STRENGTHS)}")


def _take(values, places):
    """Of `[B, P, C]` the entries at places `[N, M]`, as rows `[N·B·M, C]`.

    A gather of rows is the quickest way to lay out patches: slices of the map that are joined
    and moved to their cells, or a convolution in groups, take up to three times as long or, in
    their gradients, up to fifty times.
    """
    batch, size, channels = ops.shape(values)
    first = ops.arange(batch, dtype="int32")[:, None] * size
    rows = ops.cast(places, "int32")[:, None] + first
    return ops.take(ops.reshape(values, (-1, channels)), ops.reshape(rows, (-1,)), axis=0)
