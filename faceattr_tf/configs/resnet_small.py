"""The compact residual network: the baseline that every paper's network is compared with."""

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import Data, Model, Recipe, TaskConfig, cosine


def mtfl() -> Recipe:
    """All MTFL tasks on landmark-framed 80x80 crops with mild distortions.

    `faceattr-train --config=resnet_small_mtfl --records=MTFL --workdir=WORKDIR`

    Accuracy / balanced accuracy in per cent on 1,997 rows of `testing.txt`, with `--flip`: gender
    86.9 / 87.2, smile 86.0 / 86.2, glasses 98.7 / 96.2, pose 78.7 / 51.2; landmark error 7.2 % of
    the distance of the eyes.
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="box", height=80, width=80, margin=0.4),
            augment=Augment(flip=True, shift=0.05, rotate=5.0, scale=0.08, brightness=0.1),
            batch_size=64,
            validation_share=0.1,
        ),
        tasks=(
            TaskConfig("attributes", weight=1.0),
            TaskConfig("pose", weight=0.5),
            TaskConfig("landmarks", weight=1.0),
        ),
        model=Model("resnet_small"),
        phases=(cosine(epochs=30.0, learning_rate=2e-3, weight_decay=0.02),),
        precision="auto",
        best_metric="attributes/accuracy",
    )


def mtfl_best() -> Recipe:
    """The same with aligned faces, stronger distortions, averaged weights, a regularised head.

    `faceattr-train --config=resnet_small_mtfl_best --records=MTFL --workdir=WORKDIR`

    Accuracy / balanced accuracy in per cent on 1,997 rows of `testing.txt`, with `--flip`: gender
    88.4 / 89.1, smile 87.4 / 87.6, glasses 99.0 / 97.2, pose 78.6 / 51.8; landmark error 8.4 % of
    the distance of the eyes. KTH-MTFL's best of all models: gender 86.3, smile 87.5.
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="align", height=80, width=80, margin=0.15),
            augment=Augment(
                flip=True,
                shift=0.06,
                rotate=10.0,
                scale=0.12,
                brightness=0.15,
                contrast=0.25,
                saturation=0.2,
                grey=0.15,
                cutout=0.3,
            ),
            batch_size=64,
            validation_share=0.1,
        ),
        tasks=(
            TaskConfig("attributes", weight=1.0, label_smoothing=0.05),
            TaskConfig("pose", weight=0.3, label_smoothing=0.05),
            TaskConfig("landmarks", weight=0.5, loss="wing"),
        ),
        model=Model("resnet_small", dropout=0.3, options=(("pooling", "depthwise"),)),
        phases=(cosine(epochs=50.0, learning_rate=3e-3, weight_decay=0.05, clip_norm=5.0),),
        ema_decay=0.999,
        precision="auto",
        best_metric="attributes/accuracy",
    )


def mtfl_fine() -> Recipe:
    """`resnet_small_mtfl_best` continued at 112x112, where mouths and eyes are seen better.

    Layers that do not depend on the input's size start from the other run.

    `faceattr-train --config=resnet_small_mtfl_fine --records=MTFL --workdir=WORKDIR
    --config.warm_start=WORKDIR_OF_resnet_small_mtfl_best`

    Measured like that run: gender 88.4 / 89.3, smile 87.6 / 87.8, glasses 99.1 / 97.8, pose
    79.0 / 54.2; landmark error 8.3 %.
    """
    recipe = mtfl_best()
    recipe.data.crop.height = recipe.data.crop.width = 112
    recipe.data.augment.blur = 0.5
    recipe.phases[0].epochs = 15.0
    recipe.phases[0].learning_rate = 1.5e-3
    return recipe


def celeba() -> Recipe:
    """CelebA's 40 attributes on the aligned images, mild distortions.

    `faceattr-train --config=resnet_small_celeba --records=CELEBA --workdir=WORKDIR`

    On the 1,003 test images of a 7,882-image part of CelebA at half size, with `--flip`: mean
    accuracy 88.6 %, mean balanced accuracy 68.6 % at 0.5 and 80.5 % at the thresholds of
    validation; the majority guess has 80.3 and 50.
    """
    return Recipe(
        data=Data(
            crop=Crop(height=100, width=84),
            augment=Augment(flip=True, shift=0.04, brightness=0.1),
            batch_size=64,
        ),
        tasks=(TaskConfig("attributes"),),
        model=Model("resnet_small"),
        phases=(cosine(epochs=20.0, learning_rate=2e-3, weight_decay=0.02),),
        precision="auto",
        best_metric="attributes/average_precision",
    )


def celeba_best() -> Recipe:
    """The same with stronger distortions, averaged weights and a head that knows where it looks.

    Better still when it continues a run on other faces:

    `faceattr-train --config=resnet_small_celeba_best --records=CELEBA --workdir=WORKDIR
    --config.warm_start=WORKDIR_OF_resnet_small_mtfl_best`

    With it, on the 1,003 test images of a 7,882-image part of CelebA at half size, with `--flip`:
    mean accuracy 90.1 %, mean balanced accuracy 74.5 % at 0.5 and 83.9 % at the thresholds of
    validation; the majority guess has 80.3 and 50.
    """
    return Recipe(
        data=Data(
            crop=Crop(height=96, width=80),
            augment=Augment(
                flip=True,
                shift=0.05,
                rotate=7.0,
                scale=0.1,
                brightness=0.1,
                contrast=0.15,
                saturation=0.15,
                cutout=0.3,
            ),
            batch_size=64,
        ),
        tasks=(TaskConfig("attributes"),),
        model=Model("resnet_small", dropout=0.3, options=(("pooling", "depthwise"),)),
        phases=(cosine(epochs=45.0, learning_rate=3e-3, weight_decay=0.05, clip_norm=5.0),),
        ema_decay=0.999,
        precision="auto",
        best_metric="attributes/average_precision",
    )


def identity() -> Recipe:
    """People as classes, four images of each together: how LNets+ANet pretrains (section 4).

    Softmax over the people of the training images and the similarity loss; validation takes other
    images of the same people. A run on attributes begins with its model by
    `--config.warm_start=WORKDIR`.

    `faceattr-train --config=resnet_small_identity --records=PEOPLE --workdir=WORKDIR`

    No figures yet, and the weight of the similarity loss is not tuned: at 0.001, with a quarter of
    the width at 48x40, it drew all features together within 200 steps, and nobody was learned.
    """
    recipe = celeba()
    recipe.data.validation_share = 0.15
    recipe.data.validation_by_person = False
    recipe.data.validation_of_training = True
    recipe.data.images_per_person = 4
    recipe.tasks = (TaskConfig("identity"),)
    recipe.losses = (("similarity", 0.00003),)
    recipe.best_metric = "identity/accuracy"
    return recipe
