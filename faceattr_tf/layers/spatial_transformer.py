"""The spatial transformer: images resampled by transforms that a network predicts."""

import operator

import keras
from keras import ops

from faceattr_tf.layers.sampling import pixel_affine, sample

PARAMETERS = {"affine": 6, "similarity": 4, "attention": 3}
IDENTITY = {"affine": (1, 0, 0, 0, 1, 0), "similarity": (1, 0, 0, 0), "attention": (1, 0, 0)}
OUTSIDE = ("border", "zeros")
KERNELS = ("bilinear", "nearest")
DATA_FORMATS = ("channels_last", "channels_first")


def transform_matrix(parameters, family: str = "affine", aspect=1.0):
    """The matrices of equation 1, from the parameters of a family of transforms.

    They map positions of the output to positions of the input, both normalised to [-1, 1]:
    `x_in = theta · [x_out, y_out, 1]`.

    Args:
        parameters: `[B, P]`, P as in `PARAMETERS`: "affine" theta row by row (`[B, 2, 3]` is taken
            too); "similarity" (a, b, tx, ty), in pixels a rotation with scale
            `[[a, -b], [b, a]]`; "attention" (s, tx, ty), `[[s, 0, tx], [0, s, ty]]` (Jaderberg et
            al. 2015, section 3.2).
        family: a name of `PARAMETERS`.
        aspect: width over height of the input, in pixels (with aligned corners: in steps between
            them); a number or a scalar tensor. Only "similarity" needs it.

    Returns:
        theta, `[B, 2, 3]`, float32 (float64 from float64 parameters).
    """
    parameters = ops.convert_to_tensor(parameters)
    if keras.backend.standardize_dtype(parameters.dtype) != "float64":
        parameters = ops.cast(parameters, "float32")
    if family == "affine":
        return ops.reshape(parameters, (-1, 2, 3))
    if family == "similarity":
        a, b, tx, ty = ops.unstack(parameters, 4, axis=-1)
        aspect = ops.cast(aspect, parameters.dtype)
        entries = [a, -b / aspect, tx, b * aspect, a, ty]
    elif family == "attention":
        scale, tx, ty = ops.unstack(parameters, 3, axis=-1)
        none = ops.zeros_like(scale)
        entries = [scale, none, tx, none, scale, ty]
    else:
        raise ValueError(f"family is {family!r}; expected one of {', '.join(PARAMETERS)}")
    return ops.reshape(ops.stack(entries, axis=-1), (-1, 2, 3))


@keras.saving.register_keras_serializable("faceattr_tf")
class SpatialTransformer(keras.layers.Layer):
    """Samples images or feature maps on an affine grid (FaceSTN, section II.A, equations 1 to 5).

    Equation 1 maps every pixel of the output to a position in the input, equation 2 reads there
    by a kernel. Gradients flow to the input and to the parameters. Equation 5 to the letter is
    not zero on a constant image at whole positions, where the identity puts every pixel; there
    the difference to the right is taken, as PyTorch's `grid_sample` does.

    Positions are computed in pixels, in float32 at least under every dtype policy. The identity
    with an output of the input's size returns the input bit for bit.

    Degenerate parameters are no error. A scale of zero gives every pixel the value at the
    centre. Positions far outside, infinite ones too, read zeros or the border and move nothing.
    Where a position is NaN, the output is NaN.

    On the TensorFlow backend XLA compiles the kernels where `training` is true. In inference they
    are plain operations, so that saved graphs run and convert everywhere; a `tf.function` with
    `jit_compile=True` around the model compiles those as well. Second derivatives exist for the
    plain operations alone; of the compiled ones they raise `NotImplementedError`.

    Args:
        size: height and width of the output; None for those of the input.
        family: "affine", "similarity" or "attention", see `transform_matrix`.
        align_corners: whether -1 and 1 are the centres of the outermost pixels, instead of the
            image's borders.
        outside: what lies outside of the image: "border", its nearest pixel, or "zeros".
        kernel: "bilinear" (equation 3) or "nearest", which has no gradient to the parameters.
        data_format: "channels_last", or "channels_first" for images and output `[B, C, H, W]`;
            None for the one that Keras is set to.

    Inputs: images or maps `[B, H, W, C]`, and parameters `[B, P]` as `transform_matrix` takes
    them, or `[1, P]` for one transform of all images. Output: `[B, H', W', C]` in the compute
    dtype.

    Raises:
        ValueError: an argument or an input shape is none of these.

    Example:
        >>> layer = SpatialTransformer(size=(4, 4), family="attention")
        >>> layer([keras.ops.ones((2, 8, 8, 3)), keras.ops.ones((2, 3))]).shape
        TensorShape([2, 4, 4, 3])
    """

    def __init__(
        self,
        size: tuple[int, int] | None = None,
        family: str = "affine",
        align_corners: bool = False,
        outside: str = "border",
        kernel: str = "bilinear",
        data_format: str | None = None,
        **kwargs,
    ):
        # Keras would cast the parameters to half precision, which is wrong by whole pixels.
        super().__init__(autocast=False, **kwargs)
        data_format = data_format or keras.config.image_data_format()
        for name, value, known in (
            ("family", family, tuple(PARAMETERS)),
            ("align_corners", align_corners, (False, True)),
            ("outside", outside, OUTSIDE),
            ("kernel", kernel, KERNELS),
            ("data_format", data_format, DATA_FORMATS),
        ):
            if value not in known:
                raise ValueError(
                    f"{name} is {value!r}; expected one of {', '.join(map(str, known))}"
                )
        self.size = None if size is None else _lengths(size)
        self.family = family
        self.align_corners = bool(align_corners)
        self.outside = outside
        self.kernel = kernel
        self.data_format = data_format

    def build(self, input_shape):
        """Checks the shapes; there are no weights."""
        if len(input_shape) != 2 or not all(
            isinstance(shape, (tuple, list)) for shape in input_shape
        ):
            raise ValueError(f"inputs have shape {input_shape}; expected [images, parameters]")
        images, parameters = input_shape
        if len(images) != 4:
            axes = "[B, C, H, W]" if self._channels_first else "[B, H, W, C]"
            raise ValueError(f"images have shape {tuple(images)}; expected {axes}")
        allowed = [(PARAMETERS[self.family],)] + [(2, 3)] * (self.family == "affine")
        if tuple(parameters[1:]) not in allowed:
            raise ValueError(
                f"parameters have shape {tuple(parameters)}; "
                f"{self.family!r} takes {PARAMETERS[self.family]} of them"
            )

    def call(self, inputs, training=None):
        """Samples `[B, H, W, C]` by `[B, P]` or `[1, P]`."""
        images, parameters = inputs
        batch, transforms = images.shape[0], parameters.shape[0]
        if batch is not None and transforms not in (None, 1, batch):
            raise ValueError(
                f"{transforms} transforms for {batch} images; expected one for each, or one for all"
            )
        images = ops.cast(images, self.compute_dtype)
        if self._channels_first:
            images = ops.transpose(images, (0, 2, 3, 1))
        double = self.compute_dtype == "float64"
        parameters = ops.cast(parameters, "float64" if double else "float32")
        size = ops.shape(images)[1:3]
        height, width = (ops.cast(length, parameters.dtype) for length in size)
        if self.align_corners:
            height, width = ops.maximum(height - 1, 1), ops.maximum(width - 1, 1)
        theta = transform_matrix(parameters, self.family, width / height)
        if transforms is None or transforms != batch:
            theta = ops.broadcast_to(theta, (ops.shape(images)[0], 2, 3))
        outputs = sample(
            images,
            pixel_affine(theta, size, self.size or size, self.align_corners),
            size=self.size,
            outside=self.outside,
            kernel=self.kernel,
            compiled=bool(training) and keras.backend.backend() == "tensorflow",
        )
        return ops.transpose(outputs, (0, 3, 1, 2)) if self._channels_first else outputs

    def compute_output_shape(self, input_shape):
        """`[B, H', W', C]` of the two input shapes."""
        if self._channels_first:
            batch, channels, *size = input_shape[0]
            return (batch, channels, *(self.size or size))
        batch, *size, channels = input_shape[0]
        return (batch, *(self.size or size), channels)

    def get_config(self):
        """The arguments, for saving."""
        return {
            **super().get_config(),
            "size": self.size,
            "family": self.family,
            "align_corners": self.align_corners,
            "outside": self.outside,
            "kernel": self.kernel,
            "data_format": self.data_format,
        }

    @property
    def _channels_first(self) -> bool:
        return self.data_format == "channels_first"


def _lengths(size) -> tuple[int, int]:
    try:
        height, width = map(operator.index, size)
        if min(height, width) < 1:
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"size is {size!r}; expected a height and a width, whole numbers from 1 on, or None"
        ) from None
    return height, width
