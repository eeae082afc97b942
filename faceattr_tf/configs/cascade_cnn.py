"""Cascade CNN: the paper's own run, and one with what it names as future work."""

from faceattr_tf.configs import resnet_small, tcdcn
from faceattr_tf.configs.base import Model, Recipe, TaskConfig


def mtfl() -> Recipe:
    """KTH-MTFL, section 4.2 and table 5: one attribute, 150x150 around the nose.

    Gender by default; `--config.tasks[0].labels="('Smiling',)"` gives smile. The paper's best:
    learning rate 1e-4, 125 epochs, 80 % of `training.txt` for training. It does not name optimizer
    (Adam here) and batch size (64 here).

    `faceattr-train --config=cascade_cnn_mtfl --records=MTFL --workdir=WORKDIR`

    Shortened and in mixed_bfloat16, accuracy / balanced accuracy in per cent on 1,997 rows of
    `testing.txt`: gender 71.0 / 71.8 after 2 of the 125 epochs, smile 74.4 / 74.1 after 3, where
    validation still rose (62.0, 69.1, 73.3); published 75 and 71.5.
    """
    recipe = tcdcn.mtfl()
    recipe.tasks = (TaskConfig("attributes", labels=("Male",)),)
    recipe.model = Model("cascade_cnn")
    recipe.phases[0].epochs = 125.0
    return recipe


def mtfl_best() -> Recipe:
    """The same layers at a quarter of the width, trained as `resnet_small_mtfl_best` is.

    `faceattr-train --config=cascade_cnn_mtfl_best --records=MTFL --workdir=WORKDIR`

    Shortened to 12 of its 50 epochs, accuracy / balanced accuracy in per cent on 1,997 rows of
    `testing.txt`, with `--flip`: gender 84.0 / 83.7, smile 84.7 / 85.1, glasses 97.7 / 93.1, pose
    76.3 / 45.0; landmark error 9.2 %. KTH-MTFL's Cascade CNN has 75 for gender, 71.5 for smile.
    """
    recipe = resnet_small.mtfl_best()
    normalised = (("batch_normalization", True),)
    recipe.model = Model("cascade_cnn", width=0.25, dropout=0.3, options=normalised)
    return recipe
