"""LNets+ANet ("Deep Learning Face Attributes in the Wild", ICCV 2015): its systems and its rivals."""

import dataclasses

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import LINEAR_SVM, Bottlenecks, Data, Model, Phase, Recipe, TaskConfig

FACE = Crop(kind="none", height=88, width=88)
"""The largest square about the middle: LFWA's and CelebA's pictures are of upright, centred faces."""

DISTORTIONS = Augment(
    flip=True, shift=0.05, rotate=7.0, scale=0.1, brightness=0.1, contrast=0.15, cutout=0.3
)

ANET = Model("anet", dropout=0.3, options=(("batch_normalization", True),))

SVM = Phase(name="svm", steps=1, optimizer=LINEAR_SVM)
"""One linear support vector machine per attribute, fitted to the features of a trained network."""


def off_the_shelf() -> Recipe:
    """Section 2, "Off-the-shelf" (Razavian et al. 2014): SVMs on the features of a ready network.

    Any stage of any network: `--config.model.name=NETWORK --config.model.weights=FILE
    --config.model.layer=STAGE`, several stages joined by `+`. The mirrored image of every training
    image is a further example. Pixels are those of the whole picture, which suits LFWA's centred
    faces; `--config.data.crop.kind=align` where landmarks are known.

    `faceattr-train --config=off_the_shelf --records=LFWA --config.model.weights=FILE
    --workdir=WORKDIR`

    A MobileNet trained on VGGFace2, at 112x112, on 5,725 test images of LFWA, with `--flip`: mean
    accuracy 81.7 %, mean balanced accuracy 72.6 % at 0.5 and 77.1 % at the thresholds of
    validation; the majority guess has 71.2 and 50. PANDA-l published 81, LNets+ANet 84.
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="none", height=224, width=224),
            augment=Augment(flip=True),
            batch_size=128,
            validation_share=0.1,
            bottlenecks=Bottlenecks(use=True, copies=1),
        ),
        tasks=(TaskConfig("attributes"),),
        model=Model(
            "mobilenet",
            layer="conv_pw_11_relu+conv_pw_13_relu",
            weights="imagenet",
        ),
        phases=(SVM,),
        best_metric="attributes/balanced_accuracy",
    )


def anet_identity() -> Recipe:
    """Section 4, "Pre-training of ANet": who somebody is, by softmax and the similarity loss.

    Validation is a share of the images of the same people. The paper has 8,000 people with 20
    images each and says neither rates nor steps nor the weight of the similarity loss. Chosen here:
    AdamW, batch normalisation, distances of normalised features, four images of a person together.

    `faceattr-train --config=anet_identity --records=PEOPLE,CELEBA --workdir=WORKDIR`
    """
    return Recipe(
        data=Data(
            crop=dataclasses.replace(FACE),
            augment=dataclasses.replace(DISTORTIONS),
            batch_size=128,
            validation_share=0.1,
            validation_by_person=False,
            validation_of_training=True,
            images_per_person=4,
        ),
        tasks=(TaskConfig("identity"),),
        model=dataclasses.replace(ANET),
        losses=(("similarity", 0.1, ("normalise", True)),),
        phases=(
            Phase(
                name="identity",
                epochs=30.0,
                learning_rate=2e-3,
                schedule="cosine",
                warmup=0.05,
                decay=0.0,
                weight_decay=0.05,
                clip_norm=5.0,
            ),
        ),
        ema_decay=0.99,
        evaluate_epochs=5.0,
        best_metric="identity/accuracy",
    )


def anet() -> Recipe:
    """Sections 3.2 and 4: ANet on attributes, cross-entropy; `anet_svm` has its last layer.

    Pretrained on people by `--config.warm_start=WORKDIR_OF_anet_identity`, else from nothing.

    `faceattr-train --config=anet --records=LFWA --workdir=WORKDIR`
    """
    recipe = anet_identity()
    recipe.data.validation_by_person = True
    recipe.data.validation_of_training = False
    recipe.data.images_per_person = 0
    recipe.tasks = (TaskConfig("attributes"),)
    recipe.losses = ()
    recipe.phases[0].name = "attributes"
    recipe.phases[0].epochs = 30.0
    recipe.evaluate_epochs = 2.0
    recipe.best_metric = "attributes/average_precision"
    return recipe


def anet_svm() -> Recipe:
    """Section 3, figure 3 (d): one SVM per attribute on the features of a trained ANet.

    With `--config.model.options="(('batch_normalization', True), ('window', (80, 80)), ('views', 5))"`
    and a larger crop the features are h_a, those of several views that the interweaved operation
    finds.

    `faceattr-train --config=anet_svm --records=LFWA --workdir=WORKDIR
    --config.model.weights=WORKDIR_OF_ANET/model.keras`
    """
    recipe = off_the_shelf()
    recipe.data.crop = dataclasses.replace(FACE)
    recipe.model = dataclasses.replace(ANET, dropout=0.0)
    return recipe
