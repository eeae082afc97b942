"""LNets+ANet ("Deep Learning Face Attributes in the Wild", ICCV 2015): its systems and its rivals."""

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import LINEAR_SVM, Bottlenecks, Data, Model, Phase, Recipe, TaskConfig

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
