"""Mixup: images that are two faces at once, learned as both (Zhang et al., ICLR 2018).

A batch is mixed with itself, the last image with the first, by one share for all, as the authors'
code does. Losses are mixed in place of labels, which for cross-entropies is the same, and for
unknown labels, values and points the only way.
"""

import dataclasses

import tensorflow as tf

from faceattr_tf.losses.batch import Seen


def mixing_share(alpha: float, seed: int, step):
    """The share of an image in the mixture of a step, from Beta(alpha, alpha); None without mixup.

    Args:
        alpha: see `faceattr_tf.configs.base.Phase.mixup`.
        seed: that of the run.
        step: int64 scalar, counted from the start of the run.
    """
    if not alpha:
        return None
    key = tf.random.experimental.stateless_fold_in(tf.constant([seed, -2], tf.int64), step)
    # Two Gamma(alpha) over their sum are Beta(alpha, alpha).
    one, other = tf.unstack(tf.random.stateless_gamma([2], key, alpha, dtype=tf.float64))
    return tf.cast(one / tf.maximum(one + other, 1e-300), tf.float32)


def mix(images, share):
    """The images `[B, ...]` mixed with those of the reversed batch."""
    if share is None:
        return images
    return images * tf.cast(share, images.dtype) + images[::-1] * tf.cast(1 - share, images.dtype)


def mixed_losses(objective, seen: Seen, share):
    """What the objective gives for the labels of both images, by their shares."""
    found = objective(seen)
    if share is None:
        return found
    labels = {name: values[::-1] for name, values in seen.labels.items()}
    partners = objective(dataclasses.replace(seen, labels=labels))
    return [share * one + (1 - share) * other for one, other in zip(found, partners, strict=True)]
