"""MobileNet fine-tuned whole: attributes from a network that was trained on faces.

The weights go in by `--config.model.weights=FILE`; where they were trained on other pixel values
than ImageNet's, `--config.model.options="(('pixel_values', 'bgr'),)"` says so.
"""

from data_pipelines.crop.geometry import Crop
from faceattr_tf.configs import resnet_small
from faceattr_tf.configs.base import Data, Model, Recipe, TaskConfig, cosine


def celeba() -> Recipe:
    """CelebA's pictures as they are; what `mobilenet_lfwa` continues from.

    `faceattr-train --config=mobilenet_celeba --records=CELEBA,MORE --config.model.weights=FILE
    --workdir=WORKDIR`

    From a network trained on VGGFace2, on 11,600 images of CelebA at half size: on the 1,003 test
    images of a 7,882-image part, with `--flip`, mean accuracy 89.7 %, mean balanced accuracy 74.0 %
    at 0.5 and 83.7 % at the thresholds of validation; the majority guess has 80.3 and 50.
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="none", height=112, width=112),
            augment=resnet_small.celeba_best().data.augment,
            batch_size=64,
            validation_share=0.1,
        ),
        tasks=(TaskConfig("attributes"),),
        model=Model("mobilenet", dropout=0.3, weights="imagenet"),
        phases=(
            cosine(
                epochs=4.0,
                learning_rate=1e-3,
                weight_decay=0.05,
                layer_decay=0.85,
                clip_norm=5.0,
            ),
        ),
        ema_decay=0.99,
        evaluate_epochs=0.5,
        best_metric="attributes/average_precision",
    )


def lfwa() -> Recipe:
    """LFWA's pictures as they are, from a run of `mobilenet_celeba`.

    `faceattr-train --config=mobilenet_lfwa --records=LFWA --config.warm_start=WORKDIR_OF_CELEBA
    --workdir=WORKDIR`, and the `--config.model.options` of that run, where it had any

    From that run, on 5,725 test images, with `--flip`: mean accuracy 85.3 %, mean balanced accuracy
    78.4 % at 0.5 and 81.9 % at the thresholds of validation; the majority guess has 71.2 and 50,
    LNets+ANet published 84, FaceSTN 86. The official indices of LFWA were not at hand (README).
    """
    recipe = celeba()
    recipe.model.weights = ""
    recipe.phases[0].epochs = 8.0
    recipe.phases[0].learning_rate = 5e-4
    recipe.evaluate_epochs = 1.0
    return recipe
