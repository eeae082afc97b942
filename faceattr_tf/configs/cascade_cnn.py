"""Cascade CNN: the paper's own run, and one with what it names as future work."""

from data_pipelines.augment import Augment
from data_pipelines.geometry import Crop
from faceattr_tf.configs.base import Data, Model, Phase, Recipe, TaskConfig


def mtfl() -> Recipe:
    """KTH-MTFL, section 4.2 and table 5: one attribute, 150x150 around the nose.

    Gender by default; `--config.tasks[0].labels="('Smiling',)"` gives smile. The paper's best:
    learning rate 1e-4, 125 epochs, 80 % of `training.txt` for training. It does not name optimizer
    (Adam here) and batch size (64 here).

    `faceattr-train --config=cascade_cnn_mtfl --records=MTFL --workdir=WORKDIR`
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="nose", height=150, width=150, window=150.0),
            batch_size=64,
            validation_share=0.2,
        ),
        tasks=(TaskConfig("attributes", labels=("Male",)),),
        model=Model("cascade_cnn"),
        phases=(Phase(epochs=125.0, optimizer="adam", learning_rate=1e-4),),
        best_metric="attributes/accuracy",
    )


def mtfl_best() -> Recipe:
    """The same layers at a quarter of the width and 80x80, all tasks jointly, with distortions.

    `faceattr-train --config=cascade_cnn_mtfl_best --records=MTFL --workdir=WORKDIR`
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
                contrast=0.2,
                saturation=0.2,
                grey=0.15,
                cutout=0.25,
            ),
            batch_size=64,
            validation_share=0.1,
        ),
        tasks=(
            TaskConfig("attributes", weight=1.0),
            TaskConfig("pose", weight=0.3),
            TaskConfig("landmarks", weight=1.0, loss="wing"),
        ),
        model=Model(
            "cascade_cnn", width=0.25, dropout=0.3, options=(("batch_normalization", True),)
        ),
        phases=(
            Phase(
                epochs=30.0,
                learning_rate=2e-3,
                schedule="cosine",
                warmup=0.05,
                decay=0.0,
                weight_decay=0.05,
                clip_norm=5.0,
            ),
        ),
        average=0.999,
        precision="mixed_bfloat16",
        best_metric="attributes/accuracy",
    )
