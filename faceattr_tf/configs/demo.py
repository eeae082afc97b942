"""A first run on drawn faces, in about a minute and a half of two cores."""

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import Data, Model, Recipe, TaskConfig, cosine


def demo() -> Recipe:
    """CelebA's 40 attributes on faces that `faceattr-data synth` drew; run by `make demo`.

    `faceattr-train --config=demo --records=RECORDS --workdir=WORKDIR`
    """
    return Recipe(
        data=Data(
            crop=Crop(height=96, width=80),
            augment=Augment(shift=0.03, brightness=0.1),
            batch_size=32,
        ),
        tasks=(TaskConfig("attributes"),),
        model=Model("resnet_small", options=(("pooling", "depthwise"),)),
        phases=(cosine(epochs=10.0, learning_rate=4e-3, warmup=0.1, weight_decay=0.02),),
        precision="auto",
        evaluate_epochs=3.0,
        best_metric="attributes/balanced_accuracy_at_half",
    )
