"""Flickr ("Deep Architectures for Face Attributes"): the base network and what branches off it."""

import dataclasses

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import Bottlenecks, Data, Model, Phase, Recipe, TaskConfig, cosine
from faceattr_tf.configs.lnets_anet import DISTORTIONS, FACE


def identity() -> Recipe:
    """Section 4.1 as published: people as classes, softmax, stochastic gradient descent.

    The paper says: 224x224 pixels, aligned; momentum 0.9, batches of 400, a rate of 0.1 divided by
    4 every 10,000 batches, 5 images of every person for validation; weights from a Gaussian (see
    `faceattr_tf.models.flickr`). It does not say for how long: 60,000 batches here, ten times its
    2.5 M images and five drops. Neither augmentation nor weight decay is mentioned, and there is
    none. People without more than five images are trained on alone. Images need landmarks
    (`faceattr-data detect`) or, where faces are upright and centred,
    `--config.data.crop.kind=none`. The paper has 84 % of 10,000 people.

    `faceattr-train --config=flickr_identity --records=PEOPLE --workdir=WORKDIR`
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="align", height=224, width=224, margin=0.15, vertical=0.1),
            batch_size=400,
            validation_share=5,
            validation_by_person=False,
            validation_of_training=True,
        ),
        tasks=(TaskConfig("identity"),),
        model=Model("flickr"),
        phases=(
            Phase(
                name="identity",
                steps=60_000,
                optimizer="sgd",
                learning_rate=0.1,
                momentum=0.9,
                schedule="piecewise",
                boundaries=tuple(drop / 6 for drop in range(1, 6)),
                decay=0.25,
            ),
        ),
        evaluate_steps=2_000,
        best_metric="identity/accuracy",
    )


def identity_small() -> Recipe:
    """The same for a few people on a processor: smaller pictures and batches, random changes.

    88x88 pixels of upright, centred faces, batches of 100, one image of every person who has more
    for validation. The rate falls as in the paper, five times by a factor of 4, over 24 epochs.
    12,700 images of 5,031 people: 3.3 % of their other images right, 8.5 % among five (35 CPU minutes
    on two cores of an Intel Xeon with AVX-512); LFW's pairs 72.0 % (README, Verification).

    `faceattr-train --config=flickr_identity_small --records=PEOPLE,CELEBA --workdir=WORKDIR`
    """
    recipe = identity()
    recipe.data.crop = dataclasses.replace(FACE)
    recipe.data.augment = dataclasses.replace(DISTORTIONS)
    recipe.data.batch_size = 100
    recipe.data.validation_share = 1
    recipe.phases[0].steps = 0
    recipe.phases[0].epochs = 24.0
    recipe.evaluate_steps = 0
    recipe.evaluate_epochs = 4.0
    return recipe


def branches() -> Recipe:
    """Sections 3.2 and 4.3: what `faceattr-branch` trains on the frozen stages of a network.

    Any network: `--config.model.name=NETWORK --config.model.weights=FILE`, here the MobileNet of
    Keras on faces of 112x112 pixels, aligned where landmarks are known (`faceattr-data detect`). Of
    every training image its mirror image, a little turned and moved, is a further example, the same
    for all branches; the paper says nothing of either, nor of rates. At 1e-3 over 4 epochs the late
    branches were not yet at their best and the early ones a little worse (UTKFace, validation).

    `faceattr-branch --config=flickr_branches --records=RECORDS --tasks=age,emotion`
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="align", height=112, width=112, margin=0.1, vertical=0.1),
            augment=Augment(flip=True, shift=0.04, rotate=7.0, scale=0.08, brightness=0.1),
            batch_size=64,
            validation_share=0.1,
            bottlenecks=Bottlenecks(use=True, copies=1),
        ),
        model=Model("mobilenet", dropout=0.3, weights="imagenet"),
        phases=(
            cosine(
                name="branch",
                epochs=8.0,
                learning_rate=3e-3,
                weight_decay=0.05,
                clip_norm=5.0,
                trainable="^(head|branch)_",
            ),
        ),
        ema_decay=0.99,
        best_metric="loss",
    )


def faceattr_joint() -> Recipe:
    """Everything in one pass: 40 attributes, gender among them, age, emotion, pose and landmarks.

    A MobileNet of 208x208 pixels, 0.48 G multiply-adds (0.96 GFLOP, multiplications and additions
    counted apart), learns all tasks of all readers at once; what a data set does not label is
    masked. It begins with a network trained on faces, and the lower a stage, the slower it learns.
    All sets are framed alike, aligned by landmarks (`faceattr-data detect`, `build --detections`),
    with hair, hat and neck in the crop.

    `faceattr-train --config=faceattr_joint --records=CELEBA,MORE,MTFL,UTKFACE,FAIRFACE,FER2013
    --config.data.weights=7,7,7,4,1.5,2.5 --config.model.weights=FILE --workdir=WORKDIR`

    CelebA comes first: its forty attributes are the model's. The weights show small sets more often
    than their size says; those of tasks make up for how few images know them. Colours change little:
    `grey` 0.3 and `blur` 0.2 with a margin of 0.1 cost 17 points of area under the curve for
    `Pale_Skin` and 4 for `Brown_Hair` against `mobilenet_celeba` on validation.

    Several such runs, of other seeds and changes, teach a better one; the weights of tasks by soft
    labels are those below:

    `... --config.distillation.teachers=RUN,RUN --config.phases[0].epochs=24`

    Figures: README, "One network for everything".
    """
    recipe = branches()
    recipe.data.crop = Crop(kind="align", height=208, width=208, margin=0.25, vertical=0.1)
    recipe.data.augment = dataclasses.replace(
        recipe.data.augment, contrast=0.15, saturation=0.15, cutout=0.3
    )
    recipe.data.bottlenecks = Bottlenecks()
    recipe.data.batch_size = 128
    recipe.tasks = (
        TaskConfig("attributes"),
        TaskConfig("age", weight=20.0, loss="huber"),
        TaskConfig("age_range", loss="gaussian_cross_entropy"),
        TaskConfig("emotion", label_smoothing=0.1),
        TaskConfig("pose", weight=0.5),
        TaskConfig("landmarks", weight=0.3, loss="wing"),
    )
    recipe.distillation.temperature = 2.0
    recipe.distillation.task_weights = (
        ("attributes", 1.5),
        ("age", 3.0),
        ("age_range", 0.25),
        ("emotion", 0.75),
        ("pose", 0.15),
        ("landmarks", 0.1),
    )
    recipe.phases = (
        dataclasses.replace(
            recipe.phases[0],
            name="joint",
            trainable="",
            epochs=10.0,
            learning_rate=1.4e-3,
            layer_decay=0.85,
        ),
    )
    recipe.ema_decay = 0.995
    recipe.evaluate_epochs = 1.0
    recipe.best_metric = "attributes/average_precision"
    return recipe
