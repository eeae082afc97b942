"""Inputs of signatures, checked inside of the graph."""

import tensorflow as tf


def as_declared(**inputs) -> list:
    """The inputs of a signature; at run time an error where one has not the shape of its spec.

    Servers feed whatever shape they are sent: declared shapes bind Python alone. Nor may the graph
    be simplified by them, hence the placeholders, behind which no shape is known.
    """
    shapes = {
        name: tf.shape(tf.compat.v1.placeholder_with_default(tensor, shape=None))
        for name, tensor in inputs.items()
    }
    count = next(iter(shapes.values()))[:1]
    checks = []
    for (name, tensor), shape in zip(inputs.items(), shapes.values(), strict=True):
        declared = tensor.shape.as_list()
        known = [index for index, size in enumerate(declared) if size is not None]
        # Of another rank or number of rows, nothing is compared.
        same = tf.logical_and(
            tf.equal(tf.size(shape), len(declared)), tf.reduce_all(tf.equal(shape[:1], count))
        )
        sizes = [declared[index] for index in known]
        fits = tf.cond(
            same,
            lambda shape=shape, known=known, sizes=sizes: tf.reduce_all(
                tf.equal(tf.gather(shape, tf.constant(known, tf.int32)), sizes)
            ),
            lambda: tf.constant(False),
        )
        expected = ", ".join("N" if i == 0 else str(n or "any") for i, n in enumerate(declared))
        message = f"{name}: expected shape [{expected}] with one N for all inputs, found"
        checks.append(tf.debugging.Assert(fits, [message, shape], name=f"shape_of_{name}"))
    with tf.control_dependencies(checks):
        return [tf.identity(tensor) for tensor in inputs.values()]
