"""What a recipe is made of: typed dataclasses that become command-line flags and `config.json`.

A recipe holds everything that decides a run: data, tasks, model and a tuple of phases over one
training loop. The dataclasses are mutable so that flags can change single fields
(`--config.phases[0].learning_rate=0.001`); nothing changes them after the run has begun.
"""

import dataclasses
import typing

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment
from faceattr_tf.configs.slices import Slices

RENAMED = {
    "average": "ema_decay",
    "checkpoint_every": "checkpoint_steps",
    "classifier_sees": "classifier_input",
    "disturb": "displacement",
    "evaluate_every": "evaluate_epochs",
    "log_every": "log_steps",
}
"""Fields as they were called -> as they are: stored recipes have the old names."""

BRANCH_WEIGHTS = ("new", "trunk")
"""What the layers of branches begin with: weights drawn anew, or those of the layers they copy."""

LINEAR_SVM = "linear_svm"
"""The optimizer of phases that fit support vector machines."""


@dataclasses.dataclass
class Bottlenecks:
    """What a frozen network gives for every image, computed once and kept.

    With them a run trains the layers behind the network's pooled features alone, or its branches
    and heads; its model is the whole network nevertheless.

    Attributes:
        use: train on them.
        copies: randomly changed copies of every training image, by `data.augment`, beside the
            image itself.
        folder: where they are kept; empty means `bottlenecks` in the folder of the records.
        map_type: as what the maps are kept from which branches learn: `float16`, which takes half
            the space, or `float32`. Pooled features are float32 always.
    """

    use: bool = False
    copies: int = 0
    folder: str = ""
    map_type: str = "float16"


@dataclasses.dataclass
class Data:
    """Which records a run reads, and how an image becomes the network's input.

    Attributes:
        records: folders that `faceattr-data build` wrote; several are sampled together.
        weights: sampling weight per folder; empty means in proportion to the number of examples. An
            epoch is as many examples as all folders hold, however they are mixed.
        validation_share: share of the training split that is set aside for validation where the
            records have no validation split of their own; from 1 on, how many images of every
            person who has more.
        validation_by_person: take that share of the people, with all of their images, where the
            records know them, so that nobody is in both; else of the images.
        validation_of_training: take the share of the training split although the records have a
            validation split, which is then not used: the task `identity` needs images of the same
            people, and theirs shows others.
        crop: what the network sees of an image; stored with the model. A `window` of 0 becomes the
            mean size of the faces' boxes in the training images (FaceSTN, III.B).
        aligned: the crop that a transformer learns to produce where the task `alignment` is
            listed; its height and width are those of `crop`.
        displacement: a fixed random displacement of every face, in training, validation and test
            alike (rotate, scale and shift only): faces that need alignment, with the truth known.
        augment: random changes of training images.
        batch_size: examples per step over all replicas and workers, whose shares may differ by one.
        micro_batch: examples per forward and backward pass of a replica, where its share of the
            batch does not fit into memory: gradients are summed over the passes, statistics of
            batch normalisation are those of each pass. 0 means the whole share at once.
        images_per_person: how many images of a person stand together in a training batch, and in
            its micro-batches (`data_pipelines.input.samplers.OfPeople`): every image is shown
            equally often, those of people who have fewer repeat, those of nobody known are left
            out. 0 means images in any order, whoever they show.
        cache: keep the encoded examples in memory once they were read, all of them after some
            epochs, also where several workers read a share of each.
        bottlenecks: what a frozen network gives, computed once.
        service: `grpc://HOST:PORT` of a `tf.data` service that prepares the images of training, in
            an order that follows from no seed (`data_pipelines.input.service`); empty for none.
    """

    records: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    validation_share: float = 0.0
    validation_by_person: bool = True
    validation_of_training: bool = False
    crop: Crop = dataclasses.field(default_factory=Crop)
    aligned: Crop = dataclasses.field(default_factory=Crop)
    displacement: Augment = dataclasses.field(default_factory=Augment)
    augment: Augment = dataclasses.field(default_factory=Augment)
    batch_size: int = 64
    micro_batch: int = 0
    images_per_person: int = 0
    cache: bool = True
    bottlenecks: Bottlenecks = dataclasses.field(default_factory=Bottlenecks)
    service: str = ""


@dataclasses.dataclass
class TaskConfig:
    """One task of the data set that the model learns.

    Attributes:
        name: the task's name in the records, or `alignment`: the transform from `data.crop` to
            `data.aligned`, which supervises a transformer.
        labels: the labels to learn; empty means all.
        weight: weight of the task's loss.
        loss: name in `faceattr_tf.losses.LOSSES`; empty means the usual one of the task's kind.
        label_smoothing: share of probability moved away from the given label.
        balance_labels: weight yes and no of every label by their frequency in the training split.
        stop_window: epochs `k` of task-wise early stopping (Zhang et al., ECCV 2014, section 3.3);
            0 means that the task is never stopped.
        stop_threshold: the `epsilon` beyond which the task stops.
        stop_scale: the `lambda` that scales the generalisation error.
    """

    name: str = ""
    labels: tuple[str, ...] = ()
    weight: float = 1.0
    loss: str = ""
    label_smoothing: float = 0.0
    balance_labels: bool = False
    stop_window: int = 0
    stop_threshold: float = 1.0
    stop_scale: float = 1.0


@dataclasses.dataclass
class Model:
    """Which network of `faceattr_tf.models.MODELS` is built, and how wide and deep.

    Attributes:
        name: name in the registry.
        width: multiplier of the channel numbers.
        dropout: rate ahead of the heads.
        options: further `(name, value)` pairs of the network's build function.
        transformer: a localisation network of `faceattr_tf.models.TRANSFORMERS`, whose transform of
            the crop is what the network sees; empty for none.
        transformer_options: `(name, value)` pairs of that network's build function.
        layer: the stage whose pooled output the heads see, or several joined by `+`; empty for
            the last.
        weights: file of pretrained weights, loaded where layers and shapes agree (a network of
            `faceattr_tf.models.keras_applications` wants all of its layers), or `imagenet` for those that
            Keras itself distributes.
        trunks: the networks that `fusion` fuses, `(name, file of weights)`; an empty file means new
            weights.
        auxiliary_weight: weight of the losses of an auxiliary classifier, which only training
            builds; 0 for none.
        branches: what has layers of its own from a stage on, `(stage, what, ...)` with tasks or
            `task/Label` of a multilabel task: `(("conv17", "age"), ("conv22", "attributes/Male"))`.
            What no entry names stands on the network's own end. `(stage, "@FILE")` stands for a
            branch for each group of attributes of a JSON file, `{"hair": ["Bald", ...], ...}`.
        branch_weights: what these layers begin with: `new`, drawn anew, or `trunk`, the pretrained
            weights of the layers that they copy.
    """

    name: str = "resnet_small"
    width: float = 1.0
    dropout: float = 0.0
    options: tuple[tuple[str, typing.Any], ...] = ()
    transformer: str = ""
    transformer_options: tuple[tuple[str, typing.Any], ...] = ()
    layer: str = ""
    weights: str = ""
    trunks: tuple[tuple[str, str], ...] = ()
    auxiliary_weight: float = 0.0
    branches: tuple[tuple[str, ...], ...] = ()
    branch_weights: str = "new"

    @property
    def pretrained(self) -> bool:
        """Whether any weights come from a file."""
        return bool(self.weights) or any(file for _, file in self.trunks)


@dataclasses.dataclass
class Phase:
    """A stretch of training with one optimizer and one learning-rate schedule.

    Attributes:
        name: shown in logs.
        epochs: length in passes over the training examples; used where `steps` is 0.
        steps: length in steps.
        optimizer: `sgd`, `rmsprop`, `adam`, `adamw`; or `linear_svm`: a phase of one step, which
            fits a support vector machine per label, or class, to all stored features at once
            (`faceattr_tf.features.linear`).
        learning_rate: initial (after warm-up: peak) learning rate.
        schedule: `constant`, `piecewise` or `cosine`.
        boundaries: for `piecewise`: shares of the phase (0 to 1) at which the rate drops.
        decay: for `piecewise`: factor of every drop; for `cosine`: final share of the rate.
        warmup: share of the phase over which the rate grows linearly from 0 (`cosine`).
        momentum: the momentum of `sgd` and `rmsprop`.
        epsilon: the epsilon of `rmsprop`, `adam` and `adamw`.
        weight_decay: decoupled decay of kernels; biases and normalisation are left alone.
        l2: factor of half the squared norm of the same kernels in the loss: decay as TF-Slim has it.
        costs: for `linear_svm`: values of C, from which validation chooses one for every label.
        layer_decay: factor by which the learning rate falls from one stage of a pretrained network
            to the one below; its heads have the full rate.
        clip_norm: largest norm of the gradient over all variables; 0 means no limit.
        trainable: regular expression of the names of layers that train; empty means all.
        bottlenecks: where a pretrained network's new layers alone train, on images without random
            changes: what the layers before them give is computed once and kept, as
            `data.bottlenecks` says.
        augment: `(field, value)` pairs that replace those of `data.augment`.
        mixup: alpha of mixup (Zhang et al., ICLR 2018): every image is mixed with another of its
            batch, by one share per step from Beta(alpha, alpha), and learned as both. 0 for none.
        task_weights: `(task, weight)` pairs that replace the weights of the tasks' losses.
        classifier_input: what the network behind a transformer is given: `transformed`, or, passing
            the transformer by, the `crop` or the `aligned` crop.
    """

    name: str = "train"
    epochs: float = 0.0
    steps: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    boundaries: tuple[float, ...] = ()
    decay: float = 0.1
    warmup: float = 0.0
    momentum: float = 0.9
    epsilon: float = 1e-7
    weight_decay: float = 0.0
    l2: float = 0.0
    costs: tuple[float, ...] = (1e-5, 1e-4, 1e-3)
    layer_decay: float = 1.0
    clip_norm: float = 0.0
    trainable: str = ""
    bottlenecks: bool = False
    augment: tuple[tuple[str, typing.Any], ...] = ()
    mixup: float = 0.0
    task_weights: tuple[tuple[str, float], ...] = ()
    classifier_input: str = "transformed"


def cosine(warmup: float = 0.05, decay: float = 0.0, **fields) -> Phase:
    """A `Phase` whose learning rate grows for a short while, then falls along a cosine to nothing."""
    return Phase(schedule="cosine", warmup=warmup, decay=decay, **fields)


@dataclasses.dataclass
class Distillation:
    """Soft labels: what other networks answer to the very images that are trained on.

    They teach beside the labels that somebody gave, and where nobody gave any (Hinton et al., 2015,
    "Distilling the knowledge in a neural network").

    Attributes:
        teachers: workdir of a run whose crop is the same, or several with commas, whose answers are
            averaged; each teaches the tasks, and of attributes the labels, that it knows.
        weight: of the loss by soft labels, in which tasks weigh what they weigh by given ones.
        task_weights: `(task, weight)` pairs that replace these: every image has soft labels, also
            of tasks that weigh much because few images have given ones.
        temperature: divides the logits of teachers and pupil before probabilities are formed.
    """

    teachers: str = ""
    weight: float = 1.0
    task_weights: tuple[tuple[str, float], ...] = ()
    temperature: float = 1.0


@dataclasses.dataclass
class Recipe:
    """Everything that decides a run.

    Attributes:
        name: name in `faceattr_tf.configs.RECIPES`.
        seed: the seed of initial weights, order of examples, augmentation and dropout.
        data: records, crop, augmentation, batch.
        tasks: what is learned; empty means every task of the first record set.
        model: the network.
        losses: losses beside those of the tasks' labels, in every phase: `(name, weight)`, behind
            them `(option, value)` pairs; names are those of `faceattr_tf.losses.BATCH_LOSSES`.
        distillation: what other networks teach.
        slices: for whom the model is not to be worse.
        phases: the stretches of training, in order.
        ema_decay: decay of the exponential moving average of the weights; 0 means none. With it,
            validation, the best model, evaluation and export all use the averaged weights.
        precision: `float32`, `mixed_bfloat16`, `mixed_float16`, or `auto`: bfloat16 where the
            device computes in it, else float32 (`faceattr_tf.precision`). A workdir holds what it
            came to, and a run goes on in that.
        strategy: `default` (one device), `mirrored` (all GPUs), `multi_worker` (machines named by
            `TF_CONFIG`) or `tpu`.
        warm_start: workdir whose model gives the initial weights where name and shape agree; or
            several with commas, whose branches are joined on the trunk that they share.
        warm_start_layers: regular expression of the names of layers that it gives weights to; empty
            means all.
        evaluate_epochs: epochs between validations.
        evaluate_steps: steps between validations, in place of `evaluate_epochs` where not 0; they
            then write no checkpoints.
        checkpoint_steps: steps between checkpoints; there is one after every validation, too.
        log_steps: steps between rows of `metrics.jsonl`.
        best_metric: `task/metric` on validation by which the best model is kept, or `loss`; of the
            worst slice of `slices.by` `task/worst_accuracy`, `task/worst_balanced_accuracy`.
    """

    name: str = ""
    seed: int = 0
    data: Data = dataclasses.field(default_factory=Data)
    tasks: tuple[TaskConfig, ...] = ()
    model: Model = dataclasses.field(default_factory=Model)
    losses: tuple[tuple[typing.Any, ...], ...] = ()
    distillation: Distillation = dataclasses.field(default_factory=Distillation)
    slices: Slices = dataclasses.field(default_factory=Slices)
    phases: tuple[Phase, ...] = ()
    ema_decay: float = 0.0
    precision: str = "float32"
    strategy: str = "default"
    warm_start: str = ""
    warm_start_layers: str = ""
    evaluate_epochs: float = 1.0
    evaluate_steps: int = 0
    checkpoint_steps: int = 500
    log_steps: int = 20
    best_metric: str = "loss"

    @property
    def validation_rule(self) -> tuple[float, int, bool, bool]:
        """Share, seed, by person, of training: how `RecordSet.select` parts validation."""
        data = self.data
        by_person, of_training = data.validation_by_person, data.validation_of_training
        return data.validation_share, self.seed, by_person, of_training

    @property
    def warm_starts(self) -> tuple[str, ...]:
        """The workdirs of `warm_start`."""
        return tuple(filter(None, self.warm_start.split(",")))

    @property
    def teachers(self) -> tuple[str, ...]:
        """The workdirs of `distillation.teachers`."""
        return tuple(filter(None, self.distillation.teachers.split(",")))

    def to_dict(self) -> dict:
        """A JSON-ready copy, the inverse of `from_dict`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict) -> "Recipe":
        """The recipe that `to_dict` described.

        Raises:
            UserError: a field is unknown. One that is missing, since the file is older than the field,
            has its default.
        """
        return _from_dict(cls, fields, "config")


def _from_dict(kind, value, where: str):
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        value = {RENAMED.get(key, key): item for key, item in value.items()}
        unknown = set(value) - {field.name for field in dataclasses.fields(kind)}
        if unknown:
            raise UserError(f"{where}: field {min(unknown)!r} is unknown to this version")
        return kind(**{key: _from_dict(hints[key], value[key], f"{where}.{key}") for key in value})
    origin, parameters = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        of = parameters if Ellipsis not in parameters else [parameters[0]] * len(value)
        return tuple(
            _from_dict(part, item, f"{where}[{index}]")
            for index, (part, item) in enumerate(zip(of, value, strict=True))
        )
    return tuples(value)


def tuples(value):
    """What JSON or TOML read, its lists as tuples, however deep they lie."""
    return tuple(map(tuples, value)) if isinstance(value, list) else value
