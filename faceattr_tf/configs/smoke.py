"""A run of seconds that passes through every part of the training loop."""

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import Data, Model, Phase, Recipe, cosine


def smoke() -> Recipe:
    """Every task of the records, a narrow residual net, two short phases, averaged weights.

    `faceattr-train --config=smoke --records=RECORDS --workdir=WORKDIR`
    """
    return Recipe(
        data=Data(
            crop=Crop(kind="box", height=48, width=48, margin=0.3),
            augment=Augment(flip=True, shift=0.05, rotate=10.0, scale=0.1, brightness=0.1),
            batch_size=16,
            validation_share=0.2,
        ),
        model=Model("resnet_small", width=0.5, dropout=0.1),
        phases=(
            Phase(name="heads", steps=4, learning_rate=1e-2, trainable="^head_"),
            cosine(name="all", epochs=2.0, learning_rate=3e-3, warmup=0.1, decay=0.1),
        ),
        ema_decay=0.9,
        log_steps=5,
    )
