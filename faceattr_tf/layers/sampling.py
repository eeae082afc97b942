"""Sampling images on affine grids, with gradients to the images and to the transforms.

Everything here is `keras.ops`, one pass over the output for each of the kernel's pixels; compilers
fuse these. The gradients are written by hand: those of composed gathers would read and write the
maps many times over.
"""

import keras
from keras import ops


def pixel_affine(theta, input_size, output_size, align_corners: bool):
    """Normalised transforms as ones between pixels, the first pixel's centre being 0.

    The scale between the two is folded into the matrix: going through coordinates in [-1, 1]
    would lose the last bits of most positions, even for the identity.

    Args:
        theta: `[B, 2, 3]`, output to input, both in [-1, 1].
        input_size: height and width, numbers or scalar tensors.
        output_size: the same of the output.
        align_corners: whether -1 and 1 are the centres of the outermost pixels.

    Returns:
        `[B, 2, 3]`: `[x_in, y_in] = affine · [column, row, 1]`.
    """
    spans_in, spans_out, offsets = [], [], []
    for length_in, length_out in zip(input_size, output_size, strict=True):
        length_in, length_out = ops.cast(length_in, theta.dtype), ops.cast(length_out, theta.dtype)
        if align_corners:
            spans_in.append(length_in - 1)
            spans_out.append(ops.maximum(length_out - 1, 1))
            # A single pixel lies in the middle of its span.
            offsets.append(ops.cast(ops.equal(length_out, 1), theta.dtype))
        else:
            spans_in.append(length_in)
            spans_out.append(length_out)
            offsets.append(1)
    border = 0 if align_corners else 1
    rows = []
    for axis, span in ((0, spans_in[1]), (1, spans_in[0])):
        t1, t2, t3 = ops.unstack(theta[:, axis], 3, axis=-1)
        column, row = t1 * (span / spans_out[1]), t2 * (span / spans_out[0])
        offset = column * offsets[1] + row * offsets[0] - border
        rows.append(ops.stack([column, row, (span * (1 + t3 - t1 - t2) + offset) / 2], axis=-1))
    return ops.stack(rows, axis=1)


def sample(images, affine, *, size, outside: str, kernel: str, compiled: bool = False):
    """Equation 2 of FaceSTN for affine grids.

    Args:
        images: `[B, H, W, C]`, floating point.
        affine: `[B, 2, 3]` between pixels, see `pixel_affine`; at least float32.
        size: height and width of the output; None for those of the images.
        outside: "border" or "zeros".
        kernel: "bilinear" or "nearest".
        compiled: whether XLA compiles the kernels; on the TensorFlow backend alone.

    Returns:
        `[B, H', W', C]` in the images' dtype.
    """
    options = {"size": size, "outside": outside, "kernel": kernel}
    if keras.backend.backend() == "tensorflow" and not compiled:
        # The same gradients, composed: those by hand would warn whoever loads a saved graph.
        outputs = _interpolate(ops.cast(images, affine.dtype), affine, **options)
        return ops.cast(outputs, images.dtype)
    # PyTorch says so where a gradient is not wanted; graphs of the others drop what is not used.
    wanted = [getattr(value, "requires_grad", True) for value in (images, affine)]

    def run(function, *tensors):
        if not compiled:
            return function(*tensors, **options)
        from faceattr_tf.layers.tensorflow_kernels import compile_kernel

        return compile_kernel(function)(*tensors, **options)

    @ops.custom_gradient
    def interpolate(images, affine):
        def grad(*args, upstream=None):
            tensors = images, affine, args[-1] if upstream is None else upstream
            functions = [_image_gradient, _affine_gradient]
            if (compiled or keras.backend.backend() == "jax") and _on_processor():
                functions[0] = _image_gradient_by_image
                if compiled:  # On JAX this loop measured up to three times slower.
                    functions[1] = _affine_gradient_by_image
            return tuple(
                run(function, *tensors) if used else None
                for function, used in zip(functions, wanted, strict=True)
            )

        return run(_interpolate, images, affine), grad

    return interpolate(images, affine)


def _on_processor() -> bool:
    return all(name.startswith("cpu") for name in keras.distribution.list_devices())


def _taps(position, length, outside, kernel):
    """What a position along one axis reads: (index, weight, slope of the weight) of each pixel.

    Indices are in range for every position, NaN included; weights are NaN there.
    """
    last = ops.cast(length - 1, position.dtype)
    # Beyond these nothing is read, and an integer might not hold the position.
    low, high = (0, last) if outside == "border" else (-2, last + 2)
    inside = ops.logical_and(position > low, position < high)
    # Comparisons keep NaN, here and below; minimum, maximum and products may not when compiled.
    position = ops.where(position <= low, low, ops.where(position >= high, high, position))
    if kernel == "nearest":
        first = ops.round(position)
        error = position - first
        taps = [(first, ops.where(ops.abs(error) < 1, 1, error), ops.zeros_like(error))]
    else:
        first = ops.floor(position)
        fraction = position - first
        slope = ops.cast(inside, position.dtype)
        taps = [(first, 1 - fraction, -slope), (first + 1, fraction, slope)]
    found = []
    for index, weight, slope in taps:
        if outside == "zeros":
            missing = ops.logical_or(index < 0, index > last)
            weight, slope = ops.where(missing, 0, weight), ops.where(missing, 0, slope)
        index = ops.minimum(ops.maximum(ops.cast(index, "int32"), 0), length - 1)
        found.append((index, weight, slope))
    return found


def _grid(affine, size):
    """Column and row numbers of the output, and what `[x, y]` they map to, `[B, H', W']` each."""
    height, width = size
    columns = ops.cast(ops.arange(width, dtype="int32"), affine.dtype)
    rows = ops.cast(ops.arange(height, dtype="int32"), affine.dtype)[:, None]
    entries = affine[:, :, :, None, None]
    positions = [
        entries[:, axis, 0] * columns + entries[:, axis, 1] * rows + entries[:, axis, 2]
        for axis in (0, 1)
    ]
    return columns, rows, positions


def _corners(images_shape, affine, size, outside, kernel):
    """For each pixel that the kernel reads: its row in `[B·H·W, C]`, weight, slopes in x and y."""
    batch, height, width, _ = images_shape
    _, _, (x, y) = _grid(affine, size or (height, width))
    first = ops.arange(batch, dtype="int32")[:, None, None] * (height * width)
    across = _taps(x, width, outside, kernel)
    for row, weight_y, slope_y in _taps(y, height, outside, kernel):
        for column, weight_x, slope_x in across:
            index = first + row * width + column
            yield index, weight_y * weight_x, weight_y * slope_x, slope_y * weight_x


def _interpolate(images, affine, size, outside, kernel):
    shape = ops.shape(images)
    pixels = ops.reshape(images, (-1, shape[3]))
    outputs = 0
    for index, weight, _, _ in _corners(shape, affine, size, outside, kernel):
        corner = ops.cast(ops.take(pixels, index, axis=0), affine.dtype)
        outputs = outputs + corner * weight[..., None]
    return ops.cast(outputs, images.dtype)


def _affine_gradient(images, affine, upstream, size, outside, kernel):
    shape = ops.shape(images)
    pixels = ops.reshape(images, (-1, shape[3]))
    upstream = ops.cast(upstream, affine.dtype)
    x, y = 0, 0
    for index, _, slope_x, slope_y in _corners(shape, affine, size, outside, kernel):
        corner = ops.cast(ops.take(pixels, index, axis=0), affine.dtype)
        product = ops.sum(corner * upstream, axis=-1)
        x, y = x + product * slope_x, y + product * slope_y
    columns, rows, _ = _grid(affine, ops.shape(upstream)[1:3])
    gradients = []
    for slope in (x, y):
        # Rows first: sums of whole images would lose bits in float32.
        line = ops.sum(slope, axis=2)
        entries = ops.sum(slope * columns, axis=2), line * rows[:, 0], line
        gradients.append(ops.stack([ops.sum(entry, axis=1) for entry in entries], axis=-1))
    return ops.stack(gradients, axis=1)


def _image_gradient(images, affine, upstream, size, outside, kernel):
    shape = ops.shape(images)
    upstream = ops.cast(upstream, affine.dtype)
    pixels = ops.zeros((shape[0] * shape[1] * shape[2], shape[3]), affine.dtype)
    for index, weight, _, _ in _corners(shape, affine, size, outside, kernel):
        values = ops.reshape(upstream * weight[..., None], (-1, shape[3]))
        pixels = ops.scatter_update(pixels, ops.reshape(index, (-1, 1)), values, reduction="add")
    return ops.cast(ops.reshape(pixels, shape), images.dtype)


def _image_gradient_by_image(images, affine, upstream, **options):
    return _by_image(_image_gradient, images, affine, upstream, options)


def _affine_gradient_by_image(images, affine, upstream, **options):
    return _by_image(_affine_gradient, images, affine, upstream, options)


def _by_image(function, images, affine, upstream, options):
    """One image after the other: what XLA holds in between then fits a processor's cache."""

    def apply(image):
        return function(*(value[None] for value in image), **options)[0]

    return ops.map(apply, (images, affine, upstream))
