"""What a spatial transformer is taught: where the aligned crop lies in the network's own crop.

FaceSTN (Tan, Li, Qiao), equation 1 and section III.C: theta maps the output of the transformer, the
aligned face, to its input, both in normalised coordinates, in which -1 and +1 are a crop's borders.
"""

import math

from data_pipelines.crop.geometry import Crop, crop_transform
from data_pipelines.input.augment import random_numbers

_SEED = 2015  # any number, but always the same: a face's displacement belongs to the face


def face_numbers(filenames):
    """The random numbers of `augment.random_numbers` that belong to faces, by their file names.

    The same in every epoch, batch, split and run.

    Args:
        filenames: string `[B]`.
    """
    import tensorflow as tf

    return random_numbers(_SEED, tf.strings.to_hash_bucket_fast(filenames, 2**62))


def relative_theta(transform, aligned_transform, height: int, width: int):
    """Theta of equation 1 from where two crops of the same size lie in the source image.

    Args:
        transform: float32 `[B, 2, 3]`, from pixels of the network's crop to those of the source.
        aligned_transform: the same of the aligned crop.
        height: height of both crops in pixels.
        width: their width.

    Returns:
        float32 `[B, 2, 3]`: normalised coordinates of the aligned crop (x, y, 1) to those of the
        network's crop.
    """
    import tensorflow as tf

    transform = tf.cast(transform, tf.float32)
    aligned_transform = tf.cast(aligned_transform, tf.float32)
    # About the crops' centres: what lies far away in the source cancels before anything is divided.
    centre = tf.constant([(width - 1.0) / 2.0, (height - 1.0) / 2.0, 1.0])
    shift = tf.linalg.matvec(aligned_transform - transform, centre)
    wanted = tf.concat([aligned_transform[:, :, :2], shift[:, :, None]], axis=2)
    a, b, c, d = (transform[:, i, j, None] for i in range(2) for j in range(2))
    x, y = wanted[:, 0], wanted[:, 1]
    solved = tf.stack([d * x - b * y, a * y - c * x], axis=1) / (a * d - b * c)[:, None]
    return solved * tf.constant(
        [[1.0, height / width, 2.0 / width], [width / height, 1.0, 2.0 / height]]
    )


def alignment_labels(aligned: Crop, image_size, box, landmarks, transform, flipped):
    """What a transformer should answer for crops of pictures.

    Args:
        aligned: the crop that it should produce, of the size of the network's crop.
        image_size: `[B, 2]` height and width of the pictures.
        box: `[B, 4]`, and
        landmarks: `[B, 5, 2]`, as `geometry.crop_transform` takes them.
        transform: float32 `[B, 2, 3]`, from pixels of the network's crop to those of the picture.
        flipped: bool `[B]`, which of the network's crops are mirrored (the aligned face is mirrored
            with them, so that theta is no reflection); None for none.

    Returns:
        float32 `[B, 2, 3]`, NaN where landmarks that the aligned crop needs are unknown.
    """
    import tensorflow as tf

    found = crop_transform(aligned, image_size, box, landmarks)
    theta = relative_theta(transform, found, aligned.height, aligned.width)
    if flipped is not None:
        theta *= tf.where(flipped[:, None, None], [-1.0, 1.0, 1.0], 1.0)
    if aligned.kind in ("align", "affine"):
        known = tf.reduce_all(tf.math.is_finite(landmarks), axis=[1, 2])
        theta = tf.where(known[:, None, None], theta, math.nan)
    return theta
