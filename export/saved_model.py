"""A workdir's best model as a versioned SavedModel that needs nothing but TensorFlow to run.

    <folder>/<name>/<version>/
        saved_model.pb, variables/
        assets/faceattr.json    tasks, label names, thresholds, crop, signatures (see `describe`)
        assets.extra/           warm-up requests; options of the converter for TPUs; files.json,
                                by whose sizes `faceattr-deploy` knows an incomplete copy

| signature | inputs | for |
|---|---|---|
| `serving_default` | `image_bytes` string `[N]`: JPEG or PNG files | pictures as they are |
| `pixels` | `pixels` uint8 `[N, H, W, 3]`: RGB, any H and W | frames already decoded; a server joins requests of equal H and W only |
| `crop` | `image_bytes`, `box` float32 `[N, 4]`, `landmarks` float32 `[N, 5, 2]` | callers with \
a detector or annotations of their own; NaN where unknown |
| `features` | `image_bytes` string `[N]` | `embedding` float32 `[N, F]`: what the heads see |
| `photos` | `image_bytes` string `[N]`: photographs of any size | pictures of several faces, or \
one somewhere; with a localiser or detector |
| `photo_pixels` | `pixels` uint8 `[N, H, W, 3]` | the same of frames; with a localiser or detector |
| `description` | `question` string `[N]`: anything | clients: `description` string `[N]` is faceattr.json |

Every signature applies the recorded crop; all but `features` and `description` give, per task,
outputs whose first dimension is N:

| kind | outputs |
|---|---|
| multilabel | `<task>_probability` float32 `[N, n]`, `<task>_label` int32 `[N, n]`: 1 yes, 0 no |
| multiclass, distribution | `<task>_probability` float32 `[N, n]`, `<task>_label` int32 `[N]`: index of the class |
| classes that stand for numbers | also `<task>_value` float32 `[N]`: their mean, weighted by \
probability |
| landmarks | `<task>_points` float32 `[N, n, 2]`: x, y in pixels of the given image |
| regression | `<task>_value` float32 `[N, n]` |
| transform | `<task>_outline` float32 `[N, 4, 2]`: corners of the aligned crop (left-top, right-top, \
right-bottom, left-bottom), x, y in pixels of the given image |

Of photographs these outputs have a second dimension K behind N, the largest number of faces; the
first `faces` int32 `[N]` of its rows are filled. `face_box` float32 `[N, K, 4]` (left, top, width,
height in pixels) and `face_response` `[N, K]` say where the faces are, and how much the network saw
there. Of a localiser, what is judged is the window as if it were the face's box; of a model that was
trained on whole pictures (crop `none`), the whole window.

Of MTCNN, what is judged is what the model's crop makes of the box and the landmarks that were found,
those of the K largest faces, the largest first. A model that was trained on whole pictures sees such
a face, and one that the signature `crop` is told, as its pictures of training frame theirs
(`data_pipelines.crop.framing`). `face_response` is the score of a face, 0 to 1.
There are also `face_landmarks` float32 `[N, K, 5, 2]` (x, y in pixels), `faces_left_out` int32 `[N]`
(smaller faces beyond K) and `candidates_left_out` int32 `[N]`: more than 0 where a photograph has so
many places like a face that only the likeliest `maximum_candidates` of them were looked into.
Photographs in files are decoded and searched one after the other, which bounds the memory; those of
`photo_pixels`, which are of one size, together.

Where files come in, `valid` bool `[N]` tells which could be read; the outputs of the others are NaN
and -1, and their neighbours are none the worse. Images of more than `max_pixels` are refused by
what their headers say, before anything is decoded.

Probabilities are calibrated and labels follow the thresholds of the workdir; of a `consistent`
export, probabilities of answers that gave way lie just across these, where their labels are. Of one
that may be `unsure`, such labels are -2, for single classes too, and probabilities stay. Boxes and
points are in pixels, the centre of the first one being (0, 0). The graph does not apply
orientation tags (TensorFlow's decoders ignore them): clients turn photographs upright first.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from export.check import TOLERANCES, Check, comparable, pass_check
from export.description import METADATA_NAME, describe, described_tasks
from export.examples import task_answers
from export.versions import FILES_NAME, folder_of_model, latest_version, preparing, publish
from export.warmup import write_warmup
from faceattr_tf.evaluation.conformal import Risk

_TOLERANCES = {"float32": 1e-3, **TOLERANCES}

TPU_CONVERTER = """\
# For the inference converter of Cloud TPU: what runs on the TPU, and in which batches.
tpu_functions {{
  function_alias: "{alias}"
}}
batch_options {{
  num_batch_threads: 2
  max_batch_size: {most}
  batch_timeout_micros: 5000
  max_enqueued_batches: 10
"""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """How a model is served.

    Attributes:
        max_pixels: width times height of the largest image that is decoded; telephones take 12
            million.
        precision: precision of the network's arithmetic: `float32`, `bfloat16` or `float16`.
            Weights, heads and all that is done to pixels are float32 always.
        batch_sizes: the sizes that a server joins requests to, and warms up.
        warmup: write requests for a server to replay before a version answers.
        sensitive: names of sensitive tasks that are exported too, see
            `faceattr_tf.prediction.sensitive`; the heads of the others are not in the export.
        consistent: of two yes/no answers that the labels of training rule out together, the less
            certain one gives way in the graph, see `faceattr_tf.evaluation.consistency`.
        unsure: the share of answers that may be wrong, see `faceattr_tf.evaluation.conformal`: where
            it would be larger, the graph's label is -2. None: everything is answered.
    """

    max_pixels: int = 16_000_000
    precision: str = "float32"
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    warmup: bool = True
    sensitive: tuple[str, ...] = ()
    consistent: bool = False
    unsure: str | float | None = None

    def check(self) -> None:
        """Raises UserError if a value makes no sense."""
        if self.max_pixels < 1:
            raise UserError(f"max_pixels {self.max_pixels}: expected a positive whole number")
        if self.precision not in _TOLERANCES:
            known = ", ".join(_TOLERANCES)
            raise UserError(f"precision {self.precision!r} is none of {known}")
        sizes = self.batch_sizes
        if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
            raise UserError(f"batch_sizes {sizes}: expected whole numbers from 1 on that grow")
        if self.unsure is not None:
            Risk.of(self.unsure)


def export_model(
    workdir: str | Path,
    folder: str | Path,
    name: str = "faceattr",
    version: int | None = None,
    options: "ExportOptions | None" = None,
    check: Check | None = None,
    localiser=None,
) -> Path:
    """Writes a workdir's best model as the SavedModel `<folder>/<name>/<version>/`.

    It is prepared beside its place under a name that TensorFlow Serving ignores, reloaded and
    compared with the Keras model, and then moved: a server that watches the folder sees a complete
    version or none. A failure leaves nothing behind.

    Args:
        workdir: folder of a training run.
        folder: where models are exported to; made where missing.
        name: name of the model, as clients will ask for it.
        version: a positive number that does not exist yet; None takes the one after the highest.
        options: how it is served; None takes the defaults.
        check: what it has to pass in a process of its own before it gets its place; None for
            nothing beyond the comparison on pictures of noise.
        localiser: finds the faces for the signatures `photos` and `photo_pixels`, a `Localiser` or
            a `FaceDetector`, both of `faceattr_tf.prediction`. It stays in float32 whatever the
            precision of the model.

    Returns:
        The folder of the version.

    Raises:
        UserError: a bad name, version or option, a version that exists, a workdir without a model
            or the impossible pairs that are asked for, or a check that was not passed.
    """
    from faceattr_tf.workdir import Workdir

    options = options or ExportOptions()
    options.check()
    if check:
        check.ready()
    parent = folder_of_model(folder, name, version)
    workdir = Workdir.open(workdir)
    model = workdir.load_model()
    description = describe(workdir, model, options, localiser)

    with preparing(parent) as temporary:
        prepared = temporary / "model"
        served = with_precision(model, workdir, options.precision)
        served = answering(served, described_tasks(workdir, description))
        _save(served, workdir, description, localiser, prepared)
        _check(prepared, model, workdir, description, _TOLERANCES[options.precision])
        _add_extras(prepared, name, description)
        _list_files(prepared)
        if check:
            previous = latest_version(parent)
            pass_check(check, prepared, previous, model, workdir, description, localiser)
        return publish(prepared, parent, version)


def with_precision(model, workdir, precision: str):
    """The network of a workdir computing in another precision, with the weights of `model`.

    Raises:
        UserError: the workdir's recipe does not build this network any more.
    """
    if precision == "float32":
        return model
    from faceattr_tf.models.create import create_network

    shape = workdir.metadata()["input_shape"]
    view = workdir.view
    other = create_network(
        workdir.recipe().model,
        workdir.tasks,
        shape,
        f"mixed_{precision}",
        crop=view.aligned or view.crop,
    )
    if [w.shape for w in other.weights] != [w.shape for w in model.weights]:
        raise UserError(
            f"precision {precision}: {workdir.path} holds a network that its recipe does not build "
            "in this version; export it in float32"
        )
    other.set_weights(model.get_weights())
    return other


def answering(model, tasks: Sequence[Task]):
    """The part of a network that answers for these tasks."""
    import keras

    if {task.name for task in tasks} == set(model.output):
        return model
    return keras.Model(model.input, {task.name: model.output[task.name] for task in tasks})


def _save(model, workdir, description: dict, localiser, target: Path) -> None:
    import tensorflow as tf

    from export.signatures import TPU_FUNCTION, create_signatures

    module = tf.Module()
    # MTCNN has no stages: its weights are constants of the graph.
    networks = [model, *(stage.network for stage in getattr(localiser, "stages", ()))]
    module.parameters = [variable.value for one in networks for variable in one.variables]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, METADATA_NAME)
        file.write_text(json.dumps(description, indent=1) + "\n")
        module.description = tf.saved_model.Asset(str(file))
        signatures, module.on_device = create_signatures(
            model, described_tasks(workdir, description), workdir.crop, description, localiser
        )
        options = tf.saved_model.SaveOptions(function_aliases={TPU_FUNCTION: module.on_device})
        tf.saved_model.save(module, str(target), signatures, options)


def _add_extras(folder: Path, name: str, description: dict) -> None:
    """What servers and converters look for beside the model."""
    extra = folder / "assets.extra"
    extra.mkdir()
    converter = TPU_CONVERTER.format(
        alias=description["device_function"], most=max(description["batch_sizes"])
    )
    converter += "".join(f"  allowed_batch_sizes: {n}\n" for n in description["batch_sizes"])
    (extra / "tpu_converter_options.pbtxt").write_text(converter + "}\n")
    if description["warmup"]:
        write_warmup(extra, name, description["signatures"], description["batch_sizes"])


def _list_files(folder: Path) -> None:
    """Writes the size of every file, by which an incomplete copy is known."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / FILES_NAME).write_text(json.dumps(sizes, indent=1) + "\n")


def _check(folder: Path, model, workdir, description: dict, tolerance: float) -> None:
    """Reloads the export and compares it with the Keras model on pictures of noise."""
    import tensorflow as tf

    from data_pipelines.crop.pixels import crop_pixels

    pixels = np.random.default_rng(0).integers(0, 256, (2, 97, 83, 3), np.uint8)
    served = tf.saved_model.load(str(folder)).signatures["pixels"](pixels=tf.constant(pixels))
    nowhere = np.full([2, 4], np.nan, np.float32), np.full([2, 5, 2], np.nan, np.float32)
    images, transform = crop_pixels(pixels, *nowhere, workdir.crop)
    raw = model(images, training=False)
    served = {name: np.asarray(values) for name, values in served.items()}
    answers = task_answers(raw, transform, workdir, description)
    for name, expected in answers.items():
        if name.endswith("_label"):  # follows from the probability, which noise may put anywhere
            continue
        size = max(1.0, float(np.abs(expected).max()))
        alike = comparable(name, served, answers, description)
        difference = np.abs(served[name] - expected)[alike]
        if not (difference <= tolerance * size).all():
            raise RuntimeError(
                f"the export's {name} differs from the Keras model's by up to "
                f"{difference.max():.3g}"
            )
