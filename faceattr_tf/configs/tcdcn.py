"""TCDCN: the paper's own run, the multi-task network of the works that it cites, and better ones."""

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs import resnet_small
from faceattr_tf.configs.base import Data, Model, Phase, Recipe, TaskConfig, cosine


def mtfl() -> Recipe:
    """KTH-MTFL, section 4.2: TCDCN for the attribute smile, 150x150 around the nose.

    The paper gives learning rate 1e-4, 45 epochs, 80 % of `training.txt` for training and 20 % for
    validation, no distortions; it does not name optimizer (Adam here) and batch size (64 here).

    `faceattr-train --config=tcdcn_mtfl --records=MTFL --workdir=WORKDIR`

    After 31 of the 45 epochs (mixed_bfloat16), on 1,997 rows of `testing.txt`: smile 71.7 / 71.4 %
    accuracy / balanced accuracy; published 72.5. The best model by validation was that of epoch 10.
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="nose", height=150, width=150, window=150.0),
            batch_size=64,
            validation_share=0.2,
        ),
        tasks=(TaskConfig("attributes", labels=("Smiling",)),),
        model=Model("tcdcn"),
        phases=(Phase(epochs=45.0, optimizer="adam", learning_rate=1e-4),),
        best_metric="attributes/accuracy",
    )


def mtfl_best() -> Recipe:
    """TCDCN with what the paper names as future work: distortions, all MTFL tasks jointly.

    `faceattr-train --config=tcdcn_mtfl_best --records=MTFL --workdir=WORKDIR`

    Shortened to 12 of its 50 epochs, accuracy / balanced accuracy in per cent on 1,997 rows of
    `testing.txt`, with `--flip`: gender 87.6 / 88.1, smile 86.2 / 86.5, glasses 99.1 / 97.6, pose
    77.0 / 44.6; landmark error 8.4 %. KTH-MTFL's TCDCN has 72.5 for smile.
    """
    recipe = multitask_mtfl_best()
    recipe.data.crop.height = recipe.data.crop.width = 96
    return recipe


def multitask_mtfl() -> Recipe:
    """Zhang et al. (ECCV 2014): landmarks as main task, attributes and pose as related tasks.

    60x60 input framed by the landmarks; each related task is stopped when it begins to over-fit.
    The paper's own learning rates are those of its time; Adam 1e-3 with a cosine is a choice, as
    are the loss weights.

    `faceattr-train --config=tcdcn_multitask_mtfl --records=MTFL --workdir=WORKDIR`

    On 1,997 rows of `testing.txt`, with `--flip`: landmark error 7.9 % of the distance of the eyes,
    14.3 % of the faces above 10 %; gender 68.2, smile 78.1, glasses 92.5, pose 75.1 % accuracy.
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="box", height=60, width=60, margin=0.35),
            augment=Augment(flip=True, shift=0.08, rotate=10.0, scale=0.1),
            batch_size=64,
            validation_share=0.1,
        ),
        tasks=(
            TaskConfig("landmarks", weight=10.0),
            TaskConfig("attributes", weight=0.3, stop_window=5, stop_threshold=30.0),
            TaskConfig("pose", weight=0.3, stop_window=5, stop_threshold=30.0),
        ),
        model=Model("tcdcn"),
        phases=(cosine(epochs=15.0, optimizer="adam", learning_rate=1e-3, warmup=0.0, decay=0.01),),
        best_metric="landmarks/nme",
    )


def multitask_mtfl_best() -> Recipe:
    """The multi-task network at 60x60, normalised, trained as `resnet_small_mtfl_best` is.

    `faceattr-train --config=tcdcn_multitask_mtfl_best --records=MTFL --workdir=WORKDIR`

    After 20 of its 50 epochs, accuracy / balanced accuracy in per cent on 1,997 rows of
    `testing.txt`, with `--flip`: gender 86.0 / 86.5, smile 85.3 / 85.5, glasses 98.1 / 95.0, pose
    77.7 / 47.3; landmark error 8.6 %. KTH-MTFL's TCDCN has 72.5 for smile.
    """
    recipe = resnet_small.mtfl_best()
    recipe.data.crop.height = recipe.data.crop.width = 60
    recipe.model = Model("tcdcn", dropout=0.3, options=(("batch_normalization", True),))
    return recipe


def celeba() -> Recipe:
    """TCDCN on CelebA's 40 attributes, aligned images as they are.

    `faceattr-train --config=tcdcn_celeba --records=CELEBA --workdir=WORKDIR`

    On the 1,003 test images of a 7,882-image part of CelebA at half size, with `--flip`: mean
    accuracy 88.4 %, mean balanced accuracy 67.8 % at 0.5 and 80.4 % at the thresholds of
    validation; the majority guess has 80.3 and 50.
    """
    return Recipe(
        data=Data(crop=Crop(height=72, width=60), augment=Augment(flip=True), batch_size=64),
        tasks=(TaskConfig("attributes"),),
        model=Model("tcdcn", dropout=0.5),
        phases=(cosine(epochs=20.0, optimizer="adam", learning_rate=1e-3, warmup=0.0, decay=0.01),),
        best_metric="loss",
    )
