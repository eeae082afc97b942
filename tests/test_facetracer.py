"""FaceTracer: what its features are made of."""

import keras
import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.tasks import POSE
from faceattr_tf.layers import ColourHistograms, CropRegion, OrientedGradientHistograms
from faceattr_tf.models import build_model
from faceattr_tf.models.face_parts import locate
from faceattr_tf.models.facetracer import REGIONS
from faceattr_tf.models.heads import HEAD_PREFIX
from faceattr_tf.models.stages import features_at

SIZE = (64, 56)
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, *SIZE, 3)).astype("float32")


def model_of(**options):
    return build_model("facetracer", (POSE,), (*SIZE, 3), **options)


def features(model, stage):
    return np.asarray(keras.Model(model.input, features_at(model, stage))(IMAGES))


def test_nothing_is_learned_before_the_heads():
    assert {weight.path.split("/")[0] for weight in model_of().weights} == {HEAD_PREFIX + "pose"}


def test_a_region_has_its_gradients_and_then_its_colours():
    crop = Crop("align", *SIZE, margin=0.2)
    found = features(model_of(crop=crop, regions=("mouth",), resolution=32), "mouth")
    box = locate(REGIONS, SIZE, crop)["mouth"]
    region = CropRegion(box, (24, 48))(IMAGES / 127.5 - 1)  # 0.8 x 1.5 distances of 32 pixels
    blocks = np.reshape(OrientedGradientHistograms()(region), (2, -1))
    colours = ColourHistograms((3, 5, 5), 0.2)(region)
    np.testing.assert_allclose(found, np.hstack([blocks, colours]), atol=1e-5)


def test_stages_are_the_regions_and_both_kinds_of_features():
    model = model_of()
    parts = [features(model, name) for name in REGIONS]
    both = features(model, "regions")
    np.testing.assert_array_equal(both, np.hstack(parts))
    hog, colours = features(model, "hog"), features(model, "colours")
    assert hog.shape[1] + colours.shape[1] == both.shape[1]
    assert colours.shape[1] == 75 * len(REGIONS)
    np.testing.assert_allclose(
        np.sum(both**2, axis=1), np.sum(hog**2, axis=1) + np.sum(colours**2, axis=1), rtol=1e-5
    )


def test_regions_mirror_each_other():
    for name, (left, top, right, bottom) in REGIONS.items():
        other = REGIONS[name.replace("left", "right")]
        assert other == pytest.approx((-right, top, -left, bottom)) or "right" in name


def test_a_resolution_below_a_pixel_is_refused():
    with pytest.raises(UserError, match="resolution 0"):
        model_of(resolution=0)
