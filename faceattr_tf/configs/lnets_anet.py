"""LNets+ANet ("Deep Learning Face Attributes in the Wild", ICCV 2015): its systems and its rivals."""

import dataclasses

from data_pipelines.crop.geometry import Crop
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.base import (
    LINEAR_SVM,
    Bottlenecks,
    Data,
    Model,
    Phase,
    Recipe,
    TaskConfig,
    cosine,
)

FACE = Crop(kind="none", height=88, width=88)
"""The largest square about the middle: LFWA's and CelebA's pictures are of upright, centred faces."""

DISTORTIONS = Augment(
    flip=True, shift=0.05, rotate=7.0, scale=0.1, brightness=0.1, contrast=0.15, cutout=0.3
)

ANET = Model("anet", dropout=0.3, options=(("batch_normalization", True),))

SVM = Phase(name="svm", steps=1, optimizer=LINEAR_SVM)
"""One linear support vector machine per attribute, fitted to the features of a trained network."""

ALIGNED = Crop(kind="align", height=128, width=128, margin=0.15, vertical=0.1)
"""A face with hair and neck, placed by its landmarks."""

CELEBA = Crop(height=196, width=160)
"""An aligned image of CelebA, 178x218, whole."""

CELEBA_EYES = (0.393, 0.607, 0.512)
"""Where the eyes lie in such an image, as shares of its width and height."""


def off_the_shelf() -> Recipe:
    """Section 2, "Off-the-shelf" (Razavian et al. 2014): SVMs on the features of a ready network.

    Any stage of any network: `--config.model.name=NETWORK --config.model.weights=FILE
    --config.model.layer=STAGE`, several stages joined by `+`. A copy of every training image,
    half of them mirrored, is a further example. Pixels are those of the whole picture, which suits LFWA's centred
    faces; `--config.data.crop.kind=align` where landmarks are known.

    `faceattr-train --config=off_the_shelf --records=LFWA --config.model.weights=FILE
    --workdir=WORKDIR`

    A MobileNet trained on VGGFace2, on 5,725 test images of LFWA, with `--flip`: mean accuracy
    84.2 %, mean balanced accuracy 77.1 % at 0.5 and 80.5 % at the thresholds of validation; at
    112x112 pixels (`--config.data.crop.height=112 --config.data.crop.width=112`) 81.7, 72.6 and
    77.1, after fine-tuning on CelebA (`mobilenet_celeba`) 83.8, 76.0 and 79.9; its weights want `--config.model.options="(('pixel_values', 'bgr'),)"`. The majority guess
    has 71.2 and 50. PANDA-l published 81, LNets+ANet 84.
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
    AdamW, batch normalisation, distances of normalised features, two images of a person together.
    On batches of 128 of 5,611 people who have three images each, the accuracy of the softmax was
    1.4 % after 75 steps with two of a person together, 0.5 % with four; at ten times the weight
    nothing but the similarity was learned in 200.

    On 14,766 images of 4,882 people, shortened to 16 epochs: of the images set aside 2.2 % are given
    the right person, 6.7 % have it among five (a guess: 0.02 and 0.1). What that is worth for
    attributes: see `anet`.

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
            images_per_person=2,
        ),
        tasks=(TaskConfig("identity"),),
        model=dataclasses.replace(ANET),
        losses=(("similarity", 0.01, ("normalise", True)),),
        phases=(
            cosine(
                name="identity",
                epochs=30.0,
                learning_rate=2e-3,
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

    On 5,725 test images of LFWA, with `--flip`, means of three seeds: mean accuracy 86.0 %, mean
    balanced accuracy 78.3 % at 0.5 and 82.5 % at the thresholds of validation; pretrained on people
    86.0, 78.4 and 82.7, paired by image 0.08 more (-0.11 to 0.27). The majority guess has 71.2 and
    50; the paper has 84, and 79 without pretraining.
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

    On the features of the runs of `anet`, measured as there: 86.4, 79.6 and 83.0, paired by image
    0.40 more than their own outputs (0.22 to 0.59); pretrained on people 86.3, 79.6 and 83.0. Five
    views, `window` (88, 88) in pictures of 96x96, without copies: 86.0, 79.0 and 83.0.

    The paper's own partition of CelebA parts people into those of the networks, of the machines and
    of the test: records built with `--option split=identity` for the networks, and with `--option
    split=identity_svm` for this.
    """
    recipe = off_the_shelf()
    recipe.data.crop = dataclasses.replace(FACE)
    recipe.model = dataclasses.replace(ANET, dropout=0.0)
    return recipe


def lnet_plus() -> Recipe:
    """LNet+, section 4: the convolutions of LNet learn general objects, by softmax and SGD.

    `faceattr-train --config=lnet_plus --records=OBJECTS --workdir=WORKDIR`

    with OBJECTS built from a folder per class. The paper has the 1.2 million images of 1,000
    classes of ILSVRC 2012; its network is `--config.model.width=1
    '--config.model.options=(("features", 4096),)' --config.model.dropout=0.5` at 227x227, and 90
    epochs are AlexNet's. This one is a quarter as wide and normalised, its images are smaller.

    On 900 of 1,000 pictures of 222 kinds of objects and scenes, of which most are 64x64 pixels:
    validation accuracy 14 %. What that is worth for localisation: see `lnet_o`.
    """
    return Recipe(
        data=Data(
            crop=Crop(height=131, width=131),
            augment=Augment(ten_crop=0.875),
            batch_size=64,
            validation_share=0.1,
        ),
        tasks=(TaskConfig("class"),),
        model=_lnet(),
        phases=(cosine(epochs=120.0, optimizer="sgd", learning_rate=0.02, l2=5e-4, clip_norm=5.0),),
        precision="auto",
        evaluate_epochs=10.0,
        best_metric="class/accuracy",
    )


def lnet_o() -> Recipe:
    """LNet_o, sections 3.1 and 4: attributes of full images, its convolutions from another run.

    `faceattr-train --config=lnet_o --records=CANVASES --workdir=WORKDIR
    --config.warm_start=WORKDIR_OF_lnet_plus`

    or of `lnet_s`. CANVASES are full images of any kind whose tags are those of their faces;
    `faceattr-data paste` makes some. No box is used. The fully-connected layers begin anew.

    Measured by `faceattr-analyze --figures=localisation` on 250 canvases of test people (227x227,
    one face with head and shoulders, 68 to 182 pixels; none of their backgrounds was seen before),
    networks trained on 4,828 canvases, in 1,208 steps. Recall at an overlap of half, with 95 %
    intervals; framed: windows moved and scaled by four numbers from other canvases.

    | | as found | framed |
    |---|--:|--:|
    | from scratch | 92.8 (89.6 to 95.6) | 91.6 (87.6 to 94.8) |
    | from `lnet_plus` | 79.6 (74.4 to 84.0) | 90.8 (87.2 to 94.0) |
    | from `lnet_s`, 604 steps | 78.0 (72.8 to 82.8) | 83.6 (78.8 to 88.4) |
    | the same, twice (as LNet_s in its own windows) | 80.4 (75.6 to 84.8) | 87.2 (82.4 to 91.2) |
    | MTCNN | 0.0 | 100.0 |

    Pretraining on a thousand pictures of objects does nothing that is seen here: framed 0.8 points
    less than from scratch (4.8 less to 3.6 more, paired by canvas, one training each). The paper
    has 1.2 million, and gains 74 points. From `lnet_s` attributes are learnt better (average
    precision 49.8, from `lnet_plus` 44.9, from scratch 42.3) and responses gather on the nose,
    which tells where a face is and not how large.

    On 200 canvases of MTFL's test faces, whose pictures are closer, seen unenlarged (`{"side":
    227}`), framed: 71.5 from `lnet_plus`, 64.5 from scratch (7.0 less; 14.0 less to none), 63.5 from
    `lnet_s`; seen enlarged as by default 54.5 and 53.5, MTCNN 97.5. On 24 photographs of WIDER FACE
    with 96 faces, seen at 1,024 pixels, framed: 11.5 and 16.7 (5.2 more; 1.2 less to 12.8 more), MTCNN
    77.1: canvases show no bodies, clothes and writing, and the networks take these for faces.
    """
    recipe = lnet_o_scratch()
    recipe.warm_start_layers = "^(conv|norm)"
    return recipe


def lnet_o_scratch() -> Recipe:
    """LNet_o without pretraining (figure 7).

    `faceattr-train --config=lnet_o_scratch --records=CANVASES --workdir=WORKDIR`
    """
    return Recipe(
        data=Data(
            crop=Crop(height=227, width=227),
            augment=Augment(flip=True, shift=0.1, scale=0.2, brightness=0.1, contrast=0.2),
            batch_size=32,
        ),
        tasks=(TaskConfig("attributes"),),
        model=_lnet(),
        phases=(cosine(epochs=8.0, learning_rate=2e-3, weight_decay=0.02, clip_norm=5.0),),
        precision="auto",
        evaluate_epochs=2.0,
        best_metric="attributes/average_precision",
    )


def lnet_s() -> Recipe:
    """LNet_s, sections 3.1 and 4: attributes of images of head and shoulders.

    `faceattr-train --config=lnet_s --records=FACES --workdir=WORKDIR`

    Where records have boxes, and the paper's are the windows that LNet_o finds, the crop is half as
    large again to either side; else it is the picture. The face is moved about in it, since the
    network is to find it there.

    From 11,607 training faces of CelebA-small and more such images, without boxes, in 2,178
    steps of 32: validation accuracy 87.5 % (majority 80.4), balanced 66.4 at 0.5, average precision
    57.3. It was never shown more than faces, yet on 500 canvases of `faceattr-data paste` (227x227,
    one face each, validation people and backgrounds) the highest response lies in the pasted
    picture in 93 % (its area: 23 %), and its window overlaps with that picture by half in 66 %, in
    80 % of canvases that it sees enlarged to 320 pixels, as `prediction/localisation.py` shows them
    to LNet_o. Trained for 604 steps on canvases alone, the paper's flat network without normalisation
    learned nothing: average precision 23.8, highest response in the picture in 25 %.
    """
    recipe = lnet_o_scratch()
    recipe.data.crop = Crop(kind="box", height=131, width=131, margin=0.5)
    recipe.data.augment = Augment(flip=True, shift=0.15, scale=0.4, brightness=0.1, contrast=0.2)
    recipe.phases[0].epochs = 6.0
    return recipe


def _lnet() -> Model:
    """LNet a quarter as wide as the paper's, for some thousand images on a processor.

    It is normalised, and its fully-connected layers see the greatest response to each filter,
    wherever it is, in place of the whole map. The paper's own form, from random weights and on
    canvases alone, learned nothing in 604 steps (`lnet_s`); which of the two changes, or the framed
    faces, makes the difference was not tried apart.
    """
    options = (("features", 1024), ("pooling", "max"), ("batch_normalization", True))
    return Model("lnet", width=0.25, dropout=0.1, options=options)


def facetracer_lfwa() -> Recipe:
    """FaceTracer on LFWA: HOG and colour histograms of regions that landmarks place, SVMs.

    `faceattr-train --config=facetracer_lfwa --records=LFWA --workdir=WORKDIR`

    The records want landmarks, as `faceattr-data detect` finds them. Without, the deep-funneled
    frames of LFW, whose eyes lie at about the same place, do nearly as well:
    `--config.data.crop.kind=none --config.model.options="(('eyes', (0.418, 0.586, 0.450)),)"`, and
    `(0.372, 0.635, 0.422)` for their central 160x160 pixels: with these on 5,725 test images of LFWA
    accuracy 82.5 %, balanced 73.9 at 0.5 and 77.7 at the thresholds of validation. The paper has 74.
    """
    return Recipe(
        data=Data(
            crop=dataclasses.replace(ALIGNED),
            batch_size=100,
            validation_share=0.1,
            bottlenecks=Bottlenecks(use=True),
        ),
        tasks=(TaskConfig("attributes"),),
        model=Model("facetracer"),
        phases=(SVM,),
        best_metric="attributes/balanced_accuracy",
    )


def facetracer_celeba() -> Recipe:
    """The same on the aligned images of CelebA, whose frame puts the eyes at known places.

    `faceattr-train --config=facetracer_celeba --records=CELEBA --workdir=WORKDIR`

    On 1,003 test images of CelebA-small, fitted to 11,607: accuracy 88.2 % (majority guess 80.3),
    balanced 72.2 at 0.5 and 80.0 at the thresholds of validation.
    """
    return _on_celeba(facetracer_lfwa())


def panda_lfwa() -> Recipe:
    """PANDA-l on LFWA: features of one pretrained network on parts that landmarks place.

    `faceattr-train --config=panda_lfwa --records=LFWA --workdir=WORKDIR`

    The parts are cropped as for `facetracer_lfwa`. The weights are those of ImageNet; of a network
    that was trained on faces: `--config.model.weights=FILE`, and, where its pixels had another
    range, `--config.model.options="(('trunk', 'mobilenet'), ('size', 96), ('pixel_values', 'bgr'))"`.

    With a MobileNet that was trained on faces, on 5,725 test images of LFWA: accuracy 83.6 %,
    balanced 76.1 at 0.5 and 79.8 at the thresholds of validation. The paper has 81 for PANDA-l.
    """
    recipe = facetracer_lfwa()
    recipe.data.crop.height = recipe.data.crop.width = 160
    recipe.model = Model(
        "panda", weights="imagenet", options=(("trunk", "mobilenet"), ("size", 96))
    )
    return recipe


def panda_celeba() -> Recipe:
    """The same on the aligned images of CelebA.

    `faceattr-train --config=panda_celeba --records=CELEBA,MORE --workdir=WORKDIR`

    With the MobileNet of `panda_lfwa`, on 11,607 images of CelebA at half size and the 1,003 test
    images of a 7,882-image part: accuracy 89.6 %, balanced 75.1 at 0.5 and 82.9 at the thresholds
    of validation, where the majority guess has 80.3 and 50.
    """
    return _on_celeba(panda_lfwa())


def _on_celeba(recipe: Recipe) -> Recipe:
    recipe.data.crop = dataclasses.replace(CELEBA)
    recipe.data.validation_share = 0.0
    recipe.model.options += (("eyes", CELEBA_EYES),)
    return recipe
