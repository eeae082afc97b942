"""FaceSTN: a localisation network aligns what the classification network sees (Tan et al.).

Every data set has three recipes, the conditions of the paper's section III.D: `facestn_DATA` (the
transformer), and the same classifier on the same crops without it, `facestn_DATA_unaligned`, and on
faces aligned by their landmarks, `facestn_DATA_aligned`. `faceattr-compare` puts their runs side by
side.
"""

import dataclasses
import math

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import Data, Model, Phase, Recipe, TaskConfig, cosine


def celeba() -> Recipe:
    """The paper's system on CelebA: LoNet, then ClNet (VGG-Face), then both (III.B, III.C).

    `faceattr-train --config=facestn_celeba --records=CELEBA --workdir=WORKDIR
    --config.model.weights=VGG_FACE_FILE --config.model.options="(('pixel_values', 'rgb'),)"`

    The records want boxes and landmarks: in-the-wild images built with what `faceattr-data detect`
    found. The paper gives 256x256 crops by the mean box, the affine parameters as LoNet's
    supervision with a learning rate from 0.01 and 100 iterations, dropout 0.8; for the joint phase
    the frozen convolutions, the rate 0.001 that drops at 4,000, 8,000 and 10,000 of 12,000
    iterations, and the loss weights 0.9 and 0.1. Chosen here, as it is silent: stochastic gradient
    descent with momentum 0.9 and batches of 32, drops by 0.1, a margin that shows hair and chin, and
    the phase of ClNet alone, which sees aligned faces at the rate of the joint phase. Published,
    mean accuracy over 40 attributes: 91.1 %; without alignment 91.1, with it 91.2.
    """
    sgd = {"optimizer": "sgd", "schedule": "piecewise"}
    drops = {"learning_rate": 0.001, "steps": 12_000, "boundaries": (4 / 12, 8 / 12, 10 / 12)}
    return Recipe(
        data=Data(
            crop=Crop(kind="window", height=256, width=256, window=0.0, margin=0.25),
            aligned=Crop(kind="affine", margin=0.1),
            augment=Augment(flip=True),
            batch_size=32,
            validation_share=0.1,
        ),
        tasks=(
            TaskConfig("attributes", weight=0.9),
            TaskConfig("alignment", weight=0.1, loss="parameters"),
        ),
        model=Model("vgg_face", dropout=0.5, transformer="lonet"),
        phases=(
            Phase(
                name="lonet",
                steps=100,
                learning_rate=0.01,
                boundaries=(0.5,),
                trainable="^lonet_",
                task_weights=(("attributes", 0.0), ("alignment", 1.0)),
                **sgd,
            ),
            Phase(
                name="clnet", trainable="^(?!lonet_)", classifier_input="aligned", **sgd, **drops
            ),
            Phase(name="joint", trainable="fc|^head_", **sgd, **drops),
        ),
        best_metric="attributes/accuracy",
    )


def celeba_aligned() -> Recipe:
    """ClNet on CelebA faces aligned by an affine transform of five landmarks (91.2 published).

    `faceattr-train --config=facestn_celeba_aligned --records=CELEBA --workdir=WORKDIR`

    The weights are given as for `facestn_celeba`.
    """
    return with_alignment(celeba())


def celeba_unaligned() -> Recipe:
    """ClNet on CelebA faces as detected (91.1 published).

    `faceattr-train --config=facestn_celeba_unaligned --records=CELEBA --workdir=WORKDIR`

    The weights are given as for `facestn_celeba`.
    """
    return without_alignment(celeba())


def lfwa() -> Recipe:
    """The paper's system on LFWA: as on CelebA; 86.0 published (without alignment 85.9, with 85.7).

    `faceattr-train --config=facestn_lfwa --records=LFWA --workdir=WORKDIR
    --config.model.weights=VGG_FACE_FILE --config.model.options="(('pixel_values', 'rgb'),)"`
    """
    return celeba()


def lfwa_aligned() -> Recipe:
    """ClNet on LFWA faces aligned by an affine transform of five landmarks (85.7 published).

    `faceattr-train --config=facestn_lfwa_aligned --records=LFWA --workdir=WORKDIR`

    The weights are given as for `facestn_lfwa`.
    """
    return with_alignment(lfwa())


def lfwa_unaligned() -> Recipe:
    """ClNet on LFWA faces as detected (85.9 published).

    `faceattr-train --config=facestn_lfwa_unaligned --records=LFWA --workdir=WORKDIR`

    The weights are given as for `facestn_lfwa`.
    """
    return without_alignment(lfwa())


def mtfl() -> Recipe:
    """The three phases on MTFL with the compact residual network, minutes on a processor.

    `faceattr-train --config=facestn_mtfl --records=MTFL --workdir=WORKDIR`

    Unaligned is a window of the same size for every image around its face; aligned, a similarity
    transform of its five landmarks. Mean accuracy on 1,997 rows of `testing.txt`, three seeds, with
    `--flip`: 87.4 %; 83.4 without alignment, 89.3 with it.
    """
    return _small(
        crop=Crop(kind="window", height=64, width=64, window=0.0, margin=1.3),
        aligned=Crop(kind="align", margin=0.15),
        epochs=(10.0, 8.0, 4.0),
    )


def mtfl_aligned() -> Recipe:
    """The classifier of `facestn_mtfl` on faces aligned by their landmarks.

    `faceattr-train --config=facestn_mtfl_aligned --records=MTFL --workdir=WORKDIR`
    """
    return with_alignment(mtfl())


def mtfl_unaligned() -> Recipe:
    """The classifier of `facestn_mtfl` on unaligned faces.

    `faceattr-train --config=facestn_mtfl_unaligned --records=MTFL --workdir=WORKDIR`
    """
    return without_alignment(mtfl())


def celeba_small() -> Recipe:
    """The three phases on CelebA's aligned images after a known random displacement of each.

    `faceattr-train --config=facestn_celeba_small --records=CELEBA --workdir=WORKDIR`

    Every face is rotated by up to 30 degrees, scaled by 0.8 to 1.25 and shifted by up to 15 % of the
    image, the same way in every epoch; aligned means undisturbed. Mean accuracy on the 1,003 test
    images of a 7,882-image part of CelebA at half size, two seeds, with `--flip`: 88.3 %; 86.6
    without the transformer, 88.6 undisturbed.
    """
    recipe = _small(
        crop=Crop(height=80, width=64),
        aligned=Crop(),
        epochs=(20.0, 10.0, 6.0),
    )
    recipe.data.displacement = Augment(rotate=30.0, scale=math.log(1.25), shift=0.15)
    recipe.best_metric = "attributes/average_precision"
    return recipe


def celeba_small_aligned() -> Recipe:
    """The classifier of `facestn_celeba_small` on the undisturbed images.

    `faceattr-train --config=facestn_celeba_small_aligned --records=CELEBA --workdir=WORKDIR`
    """
    return with_alignment(celeba_small())


def celeba_small_unaligned() -> Recipe:
    """The classifier of `facestn_celeba_small` on the disturbed images.

    `faceattr-train --config=facestn_celeba_small_unaligned --records=CELEBA --workdir=WORKDIR`
    """
    return without_alignment(celeba_small())


def with_alignment(recipe: Recipe) -> Recipe:
    """The classifier alone, for as many steps, on the crop that the transformer learns to make."""
    size = {"height": recipe.data.crop.height, "width": recipe.data.crop.width}
    recipe = without_alignment(recipe)
    recipe.data.crop = dataclasses.replace(recipe.data.aligned, **size)
    recipe.data.displacement = Augment()
    return recipe


def without_alignment(recipe: Recipe) -> Recipe:
    """The classifier alone, for as many steps, on the crop as it comes."""
    recipe.model.transformer, recipe.model.transformer_options = "", ()
    recipe.tasks = tuple(config for config in recipe.tasks if config.name != "alignment")
    recipe.phases = tuple(
        dataclasses.replace(phase, classifier_input="transformed")
        for phase in recipe.phases
        if phase.name != "lonet"
    )
    return recipe


def _small(crop: Crop, aligned: Crop, epochs: tuple[float, float, float]) -> Recipe:
    """LoNet, classifier and both together, `epochs` long, on small crops."""
    decay = {"weight_decay": 0.02, "clip_norm": 5.0}
    return Recipe(
        data=Data(
            crop=crop,
            aligned=aligned,
            augment=Augment(flip=True, shift=0.04, rotate=4.0, scale=0.05, brightness=0.1),
            batch_size=64,
            validation_share=0.1,
        ),
        tasks=(
            TaskConfig("attributes", weight=0.9),
            TaskConfig("alignment", weight=0.1, loss="parameters"),
        ),
        model=Model(
            "resnet_small",
            dropout=0.2,
            options=(("pooling", "depthwise"),),
            transformer="lonet",
            transformer_options=(("dropout", 0.0), ("width", 2.0), ("features", 256)),
        ),
        phases=(
            cosine(
                name="lonet",
                epochs=epochs[0],
                learning_rate=2e-3,
                trainable="^lonet_",
                # Any displacement may be shown, since its true transform is known.
                augment=(("rotate", 12.0), ("scale", 0.12), ("shift", 0.06)),
                task_weights=(("attributes", 0.0), ("alignment", 1.0)),
                **decay,
            ),
            cosine(
                name="clnet",
                epochs=epochs[1],
                learning_rate=2e-3,
                decay=0.3,
                trainable="^(?!lonet_)",
                classifier_input="aligned",
                **decay,
            ),
            cosine(name="joint", epochs=epochs[2], learning_rate=6e-4, **decay),
        ),
        ema_decay=0.99,
        precision="auto",
        best_metric="attributes/accuracy",
    )
