"""InceptionV3: bottlenecks and complete fine-tuning as KTH-MTFL did them, and better.

The recipes name `imagenet`, the weights of the paper's network as Keras distributes them. A file
that is at hand goes in by `--config.model.weights=FILE`; where it was trained on another range of
pixel values, `--config.model.options="(('pixel_values', 'unit'),)"` says so.
"""

import dataclasses

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs import resnet_small
from faceattr_tf.configs.base import Bottlenecks, Data, Model, Phase, Recipe, TaskConfig, cosine

ORIGINAL = Crop(height=299, width=299)
NOSE = Crop(kind="nose", height=299, width=299, window=150.0)

_JOINT = (
    TaskConfig("attributes"),
    TaskConfig("pose", weight=0.5),
    TaskConfig("landmarks"),
)


def bottleneck_mtfl() -> Recipe:
    """KTH-MTFL, section 3.3 and Table 1: the softmax top on bottlenecks of the original images.

    Gender by default; `--config.tasks[0].labels="('Smiling',)"` gives smile. Learning rate 0.01,
    batch 100, 4,000 steps, validation on 10 % of `training.txt` every 10 steps, no distortions are
    the paper's. Plain gradient descent is that of the tutorial that it followed. Chosen here: the
    best step on validation is kept, not the last.

    `faceattr-train --config=inception_bottleneck_mtfl --records=MTFL --workdir=WORKDIR`

    In bfloat16 with weights of another origin than ImageNet's (see README), accuracy / balanced
    accuracy in per cent on 1,997 rows of `testing.txt`: gender 65.1 / 69.2, smile 54.3 / 54.3;
    published 86.3 and 68.5.
    """
    return Recipe(
        data=Data(
            crop=dataclasses.replace(ORIGINAL),
            batch_size=100,
            validation_share=0.1,
            bottlenecks=Bottlenecks(use=True),
        ),
        tasks=(TaskConfig("attributes", labels=("Male",)),),
        model=Model("inception_v3", weights="imagenet"),
        phases=(Phase(name="top", steps=4000, optimizer="sgd", momentum=0.0, learning_rate=0.01),),
        evaluate_steps=10,
        best_metric="attributes/accuracy",
    )


def bottleneck_mtfl_nose() -> Recipe:
    """KTH-MTFL, Tables 3 and 4, starred: the same on 150x150 pixels around the nose.

    `faceattr-train --config=inception_bottleneck_mtfl_nose --records=MTFL --workdir=WORKDIR`

    Measured like that run: gender 66.0 / 69.8, smile 58.3 / 56.4; published 86.1 and 70.1.
    """
    recipe = bottleneck_mtfl()
    recipe.data.crop = dataclasses.replace(NOSE)
    return recipe


def bottleneck_mtfl_joint() -> Recipe:
    """All MTFL tasks on the bottlenecks around the nose: the paper's future work.

    `faceattr-train --config=inception_bottleneck_mtfl_joint --records=MTFL --workdir=WORKDIR`

    Measured like those runs: gender 63.3 / 68.0, smile 55.9 / 52.8, glasses 91.9 / 50.0.
    """
    recipe = bottleneck_mtfl_nose()
    recipe.tasks = tuple(dataclasses.replace(task) for task in _JOINT)
    return recipe


def bottleneck_mtfl_best() -> Recipe:
    """What validation supports for bottlenecks: aligned faces, an earlier layer, AdamW.

    `faceattr-train --config=inception_bottleneck_mtfl_best --records=MTFL --workdir=WORKDIR`

    Measured like those runs: gender 78.3 / 79.8, smile 72.6 / 72.9, glasses 91.7 / 68.6, pose 66.8
    / 32.3; landmark error 8.4 %. The layer is `faceattr-probe`'s choice (see README).
    """
    recipe = bottleneck_mtfl_joint()
    recipe.data.crop = Crop(kind="align", height=299, width=299, margin=0.15)
    recipe.data.bottlenecks.copies = 1
    recipe.data.augment = Augment(flip=True, shift=0.03, scale=0.05, rotate=5.0)
    recipe.model.layer = "mixed8"
    recipe.model.dropout = 0.3
    recipe.phases = (_top_best(),)
    return recipe


def full_mtfl() -> Recipe:
    """KTH-MTFL, section 3.3 and Table 2: complete fine-tuning on the original images.

    Gender by default; `--config.tasks[0].labels="('Smiling',)"` gives smile. First the new Logits
    and AuxLogits alone, 1,000 steps at 0.01, then all layers, 500 steps at 0.001; RMSprop, batch
    100, weight decay 4e-5, no distortions, validation on 10 % of `training.txt`. Momentum 0.9,
    epsilon 1, decay in the loss, the auxiliary classifier's weight of 0.4 and the dropout of 0.2
    are those of TF-Slim, with which the paper trained. TF-Slim starts the mean square of RMSprop at
    1, Keras at 0, which an epsilon of 1 makes a matter of the first ten steps.

    `faceattr-train --config=inception_full_mtfl --records=MTFL --workdir=WORKDIR`
    """
    shared = {"optimizer": "rmsprop", "momentum": 0.9, "epsilon": 1.0, "l2": 4e-5}
    return Recipe(
        data=Data(
            crop=dataclasses.replace(ORIGINAL),
            batch_size=100,
            micro_batch=25,
            validation_share=0.1,
        ),
        tasks=(TaskConfig("attributes", labels=("Male",)),),
        model=Model("inception_v3", dropout=0.2, weights="imagenet", auxiliary_weight=0.4),
        phases=(
            Phase(
                name="new layers",
                steps=1000,
                learning_rate=0.01,
                trainable="^(head|aux)_",
                bottlenecks=True,
                **shared,
            ),
            Phase(name="all layers", steps=500, learning_rate=0.001, **shared),
        ),
        evaluate_steps=250,
        checkpoint_steps=50,
        best_metric="attributes/accuracy",
    )


def full_mtfl_nose() -> Recipe:
    """KTH-MTFL, Tables 3 and 4, starred: the same on 150x150 pixels around the nose.

    `faceattr-train --config=inception_full_mtfl_nose --records=MTFL --workdir=WORKDIR`
    """
    recipe = full_mtfl()
    recipe.data.crop = dataclasses.replace(NOSE)
    return recipe


def full_mtfl_joint() -> Recipe:
    """All MTFL tasks, fine-tuned around the nose: the paper's future work.

    `faceattr-train --config=inception_full_mtfl_joint --records=MTFL --workdir=WORKDIR`

    In bfloat16 with weights of another origin than ImageNet's (see README), accuracy / balanced
    accuracy in per cent on 1,997 rows of `testing.txt`: gender 72.9 / 74.1, smile 61.2 / 60.0,
    glasses 91.9 / 52.8, pose 61.4 / 20.7; landmark error 19 %. Validation still rose at the end.
    """
    recipe = full_mtfl_nose()
    recipe.tasks = tuple(dataclasses.replace(task) for task in _JOINT)
    return recipe


def full_mtfl_best() -> Recipe:
    """Fine-tuning with what validation supports, on aligned faces at half the size.

    All tasks jointly, random distortions, AdamW with a rate that falls from stage to stage, cosine
    with warm-up, label smoothing, averaged weights. CelebA's faces may be added: attributes are
    joined by name.

    `faceattr-train --config=inception_full_mtfl_best --records=MTFL[,CELEBA] --workdir=WORKDIR`

    Shortened to 5 of the 8 epochs, with CelebA-small added (without landmarks, hence not aligned)
    and weights of another origin than ImageNet's (see README), accuracy / balanced accuracy in per
    cent on 1,997 rows of `testing.txt`, with `--flip`: gender 86.5 / 87.7, smile 87.3 / 87.7,
    glasses 99.3 / 98.8, pose 78.9 / 51.9; landmark error 9.5 %.
    """
    recipe = resnet_small.mtfl_best()
    recipe.data.crop = Crop(kind="align", height=144, width=144, margin=0.25)
    recipe.data.augment.shift = 0.05
    recipe.data.batch_size = 48
    recipe.model = Model("inception_v3", dropout=0.3, weights="imagenet")
    recipe.phases = _fine_tune_best(epochs=8.0)
    recipe.ema_decay = 0.998
    recipe.checkpoint_steps = 100
    return recipe


def bottleneck_celeba() -> Recipe:
    """CelebA's 40 attributes on bottlenecks of the aligned images.

    The aligned images are 218x178; the crop keeps their shape at about the paper's area.

    `faceattr-train --config=inception_bottleneck_celeba --records=CELEBA --workdir=WORKDIR`

    In bfloat16 with weights of another origin than ImageNet's (see README), on the 1,003 test
    images of a 7,882-image part of CelebA at half size: mean accuracy 81.4 %, mean balanced
    accuracy 51.3 % at 0.5 and 54.6 % at the thresholds of validation; the majority guess has 80.3
    and 50.
    """
    return _on_celeba(bottleneck_mtfl())


def bottleneck_celeba_best() -> Recipe:
    """The same with an earlier layer, mirrored copies and AdamW.

    `faceattr-train --config=inception_bottleneck_celeba_best --records=CELEBA --workdir=WORKDIR`

    Measured like that run: 86.5 %, 60.6 and 76.5; from mixed7, which validation likes less, 85.7,
    57.6 and 74.2.
    """
    recipe = bottleneck_celeba()
    recipe.data.bottlenecks.copies = 1
    recipe.data.augment = Augment(flip=True, shift=0.03, scale=0.05, rotate=3.0)
    recipe.model.layer = "mixed8"
    recipe.model.dropout = 0.3
    recipe.phases = (_top_best(),)
    recipe.best_metric = "attributes/average_precision"
    return recipe


def full_celeba() -> Recipe:
    """CelebA's 40 attributes, complete fine-tuning as `inception_full_mtfl` does it.

    `faceattr-train --config=inception_full_celeba --records=CELEBA --workdir=WORKDIR`
    """
    return _on_celeba(full_mtfl())


def full_celeba_best() -> Recipe:
    """CelebA's 40 attributes, fine-tuned as `inception_full_mtfl_best` is, at half the size.

    `faceattr-train --config=inception_full_celeba_best --records=CELEBA --workdir=WORKDIR`

    Shortened to 4 of the 12 epochs, in bfloat16 and with weights of another origin than ImageNet's
    (see README), on the test images of `inception_bottleneck_celeba`, with `--flip`: 88.2 %, 67.7
    and 80.2.
    """
    recipe = full_mtfl_best()
    recipe.data.crop = Crop(height=160, width=131)
    recipe.data.augment.rotate = 7.0
    recipe.data.augment.grey = 0.0
    recipe.data.validation_share = 0.0
    recipe.tasks = (TaskConfig("attributes"),)
    recipe.phases = _fine_tune_best(epochs=12.0)
    recipe.best_metric = "attributes/average_precision"
    return recipe


def _on_celeba(recipe: Recipe) -> Recipe:
    recipe.data.crop = Crop(height=327, width=267)
    recipe.data.validation_share = 0.0
    recipe.tasks = (TaskConfig("attributes"),)
    recipe.best_metric = "loss"
    return recipe


def _top_best() -> Phase:
    return cosine(name="top", steps=4000, learning_rate=1e-3, weight_decay=0.05)


def _fine_tune_best(epochs: float) -> tuple[Phase, ...]:
    """The heads alone until they point somewhere, then everything, the lower the slower."""
    return (
        Phase(name="new layers", epochs=0.5, learning_rate=1e-3, trainable="^head_"),
        cosine(
            name="all layers",
            epochs=epochs,
            learning_rate=6e-4,
            warmup=0.1,
            weight_decay=0.05,
            layer_decay=0.85,
            clip_norm=5.0,
        ),
    )
