"""Fusion+OBRL: IdentityNet, AgeNet and RaceNet, their maps side by side, attributes in nine groups.

Source: Wang, Su and Zhao, "Joint Multi-Feature Fusion and Attribute Relationships for Facial
Attribute Prediction". Its networks are trained in three stages, which here are runs: general
objects, then faces against other pictures, then who somebody is, how old, or of which group. Each
begins with the one before by `--config.warm_start=WORKDIR`. Of these the convolutions are kept,
and AttributeNet learns from their maps.

The paper names its sets and their sizes, and neither rates nor lengths. Chosen here: AlexNet's for
the objects (0.01, a tenth after each third of 90 epochs, momentum 0.9, batches of 128, L2 5e-4), a
tenth of the rate and fewer epochs for what is fine-tuned, and for people the batches and weights of
the centre loss (Wen et al., ECCV 2016).

Recipes that end in `_small` are sized for a processor: 88x88 pixels, a quarter of the filters,
AdamW.
"""

import dataclasses

from data_pipelines.attribute_groups import GROUPS
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import Bottlenecks, Data, Model, Phase, Recipe, TaskConfig, cosine
from faceattr_tf.configs.lnets_anet import DISTORTIONS, FACE

_WIDTH = 0.25
"""Of the small networks."""

_GROUPED = tuple(("fused", *(f"attributes/{name}" for name in of)) for of in GROUPS.values())


def objects() -> Recipe:
    """Section II.A, first stage: 1,000 generic categories, from a folder per class.

    `faceattr-train --config=fusion_objects --records=OBJECTS --workdir=WORKDIR`
    """
    recipe = _alone("class", epochs=90.0, learning_rate=0.01)
    recipe.data.augment.ten_crop = 0.875
    recipe.best_metric = "class/accuracy"
    return recipe


def faces() -> Recipe:
    """Section II.A, first fine-tuning: faces and pictures without any, of a manifest.

    Its table has the columns `path` and `face`, yes or no:

    `faceattr-data build --dataset=manifest --source=faces.csv --option
    "tasks=pictures:multilabel:face" --records=PICTURES`

    `faceattr-train --config=fusion_faces --records=PICTURES --config.warm_start=RUN_OF_OBJECTS
    --workdir=WORKDIR`
    """
    return _alone("pictures", epochs=10.0, learning_rate=0.001)


def identity() -> Recipe:
    """Section II.A, IdentityNet: softmax over people and centre loss. The paper has 100,000 people.

    `faceattr-train --config=fusion_identity --records=PEOPLE --config.warm_start=RUN_OF_FACES
    --workdir=WORKDIR`
    """
    recipe = _alone("identity", epochs=20.0, learning_rate=0.01, batch_size=256)
    recipe.losses = (("centre", 0.003),)
    recipe.data.validation_by_person = False
    recipe.data.validation_of_training = True
    recipe.best_metric = "identity/accuracy"
    return recipe


def age() -> Recipe:
    """Section II.A, AgeNet: years by the Euclidean loss and SGD. The paper has 500,000 images.

    `faceattr-train --config=fusion_age --records=AGES --config.warm_start=RUN_OF_FACES
    --workdir=WORKDIR`
    """
    return _alone("age", epochs=20.0, learning_rate=0.001, loss="squared")


def race() -> Recipe:
    """Section II.A, RaceNet: softmax over groups of people (README, Labels about groups of people).

    The paper has 12,000 images in three groups of its own.

    `faceattr-train --config=fusion_race --records=GROUPS --config.warm_start=RUN_OF_FACES
    --workdir=WORKDIR`
    """
    recipe = _alone("ethnicity", epochs=20.0, learning_rate=0.001)
    recipe.best_metric = "ethnicity/balanced_accuracy"
    return recipe


def attributes() -> Recipe:
    """Sections II.B and II.C: AttributeNet on the maps of the three networks, groups of Table I.

    `faceattr-train --config=fusion_attributes --records=CELEBA --workdir=WORKDIR
    --config.model.trunks="(('identity', 'RUN/model.keras'), ('age', 'RUN/model.keras'), ('race',
    'RUN/model.keras'))"`

    with any of the three, or others. The convolutions of the trunks are frozen, and what they give
    of every image is computed once. The Online Batch Relation Loss is in, with alpha 0.5 beside a
    sum over 40 attributes, which beside their mean is 0.0125; `--config.losses="()"` leaves it out.
    Other groups: `--config.model.branches="(('fused', '@groups.json'),)"`. Trunks that are other
    networks, a MobileNet that was trained on faces for instance: `--config.model.options="(
    ('network', 'mobilenet'), ('network_options', (('pixel_values', 'bgr'),)), ('stage',
    'conv_pw_11_relu'))" --config.model.trunks="(('faces', FILE),)"`.
    """
    return Recipe(
        data=Data(
            crop=dataclasses.replace(FACE, height=224, width=224),
            augment=dataclasses.replace(DISTORTIONS),
            batch_size=128,
            validation_share=0.1,
            bottlenecks=Bottlenecks(use=True, copies=1),
        ),
        tasks=(TaskConfig("attributes"),),
        model=Model(
            "fusion",
            dropout=0.5,
            trunks=(("identity", ""), ("age", ""), ("race", "")),
            branches=_GROUPED,
        ),
        losses=(("relation", 0.0125),),
        phases=(
            _adamw("attributes", epochs=10.0, learning_rate=1e-3, trainable="^(branch|head)_"),
        ),
        ema_decay=0.99,
        best_metric="attributes/average_precision",
    )


def objects_small() -> Recipe:
    """`fusion_objects` for a processor.

    `faceattr-train --config=fusion_objects_small --records=OBJECTS --workdir=WORKDIR`
    """
    return _small(objects(), epochs=60.0)


def faces_small() -> Recipe:
    """`fusion_faces` for a processor.

    `faceattr-train --config=fusion_faces_small --records=PICTURES
    --config.warm_start=RUN_OF_OBJECTS --workdir=WORKDIR`
    """
    return _small(faces(), epochs=10.0)


def identity_small() -> Recipe:
    """`fusion_identity` for a processor.

    `faceattr-train --config=fusion_identity_small --records=PEOPLE --config.warm_start=RUN_OF_FACES
    --workdir=WORKDIR`
    """
    return _small(identity(), epochs=16.0)


def age_small() -> Recipe:
    """`fusion_age` for a processor.

    `faceattr-train --config=fusion_age_small --records=AGES --config.warm_start=RUN_OF_FACES
    --workdir=WORKDIR`
    """
    return _small(age(), epochs=30.0)


def race_small() -> Recipe:
    """`fusion_race` for a processor.

    `faceattr-train --config=fusion_race_small --records=GROUPS --config.warm_start=RUN_OF_FACES
    --workdir=WORKDIR`
    """
    return _small(race(), epochs=30.0)


def attributes_small() -> Recipe:
    """`fusion_attributes` on the maps of the small networks.

    `faceattr-train --config=fusion_attributes_small --records=CELEBA --workdir=WORKDIR
    --config.model.trunks="(('identity', 'RUN/model.keras'), ('age', 'RUN/model.keras'), ('race',
    'RUN/model.keras'))"`
    """
    recipe = attributes()
    recipe.data.crop = dataclasses.replace(FACE)
    recipe.data.batch_size = 64
    recipe.model.width = _WIDTH
    recipe.model.options = (("network_options", (("width", _WIDTH),)),)
    return recipe


def _alone(
    task: str, *, epochs: float, learning_rate: float, batch_size: int = 128, loss: str = ""
) -> Recipe:
    """One of the networks on one task, stochastic gradient descent."""
    return Recipe(
        data=Data(
            crop=dataclasses.replace(FACE, height=224, width=224),
            augment=Augment(flip=True),
            batch_size=batch_size,
            validation_share=0.1,
        ),
        tasks=(TaskConfig(task, loss=loss),),
        model=Model("face_alexnet", dropout=0.5),
        phases=(
            Phase(
                name=task,
                epochs=epochs,
                optimizer="sgd",
                learning_rate=learning_rate,
                momentum=0.9,
                schedule="piecewise",
                boundaries=(1 / 3, 2 / 3),
                decay=0.1,
                l2=5e-4,
            ),
        ),
        best_metric="loss",
    )


def _adamw(name: str, **fields) -> Phase:
    """A phase of AdamW, its rate falling along a cosine."""
    return cosine(name=name, weight_decay=0.05, clip_norm=5.0, **fields)


def _small(recipe: Recipe, epochs: float) -> Recipe:
    """The recipe on small pictures, with a narrow network and AdamW."""
    recipe.data.crop = dataclasses.replace(FACE)
    if not recipe.data.augment.ten_crop:
        recipe.data.augment = dataclasses.replace(DISTORTIONS)
    recipe.data.batch_size = 64
    recipe.model.width = _WIDTH
    recipe.phases = (_adamw(recipe.phases[0].name, epochs=epochs, learning_rate=2e-3),)
    recipe.ema_decay = 0.99
    recipe.evaluate_epochs = epochs / 5
    return recipe
