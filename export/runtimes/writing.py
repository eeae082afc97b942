"""`<folder>/<name>/<version>-runtimes/`: a workdir's best model for other runtimes."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.tasks import Task
from export.check import Check
from export.description import METADATA_NAME, describe, described_tasks
from export.runtimes import litert, onnx, openvino, page
from export.runtimes.network import INPUT, Converted, Network
from export.runtimes.onnxruntime_web import check_source
from export.runtimes.pictures import Pictures, calibration_crops, pictures_to_compare
from export.runtimes.triton import CONFIG, triton_config
from export.runtimes.verification import Verified, refuse_unlike, verification_table, verify
from export.saved_model import ExportOptions, answering
from export.signatures import EMBEDDING, device_function
from export.versions import RUNTIMES, folder_of_model, preparing, publish

FORMATS = {"litert": litert, "onnx": onnx, "openvino": openvino, "page": page}
"""Name of a format -> the module that writes it: `ready`, `convert`, `NAME`."""

CROP_CODE = Path(__file__).with_name("face_crop.py")
CROP_CODES = dict.fromkeys(FORMATS, CROP_CODE) | {"page": page.CROP_CODE}
"""The code of the crop that lies beside the files of a format."""

_OF_SERVERS = ("signatures", "device_function", "localiser", "detector") + tuple(
    field.name
    for field in dataclasses.fields(ExportOptions)
    if field.name not in ("sensitive", "consistent", "unsure")
)
"""What the metadata of a SavedModel says and other runtimes do not know."""


@dataclasses.dataclass(frozen=True)
class RuntimeOptions:
    """What is written for other runtimes, and by which pictures it is judged.

    Attributes:
        formats: names of `FORMATS`.
        litert_types: names of `litert.TYPES`. int8 is left out, and that is said, where there are
            no pictures to calibrate on.
        check: pictures, and the points of balanced accuracy that int8 may lose on them.
        sensitive, consistent, unsure: as of `export.saved_model.ExportOptions`.
        onnxruntime_web: folder of that package, for the page; None has npm fetch it.
    """

    formats: tuple[str, ...] = ("litert", "onnx", "openvino")
    litert_types: tuple[str, ...] = litert.TYPES
    check: Check = dataclasses.field(default_factory=Check)
    sensitive: tuple[str, ...] = ()
    consistent: bool = False
    unsure: str | float | None = None
    onnxruntime_web: str | None = None

    def ready(self) -> None:
        """Raises UserError if a value makes no sense, or something that it needs is not there."""
        for given, known in ((self.formats, FORMATS), (self.litert_types, litert.TYPES)):
            if not given:
                raise UserError(f"expected one or more of {', '.join(known)}")
            for name in given:
                if name not in known:
                    raise UserError(f"{name!r} is none of {', '.join(known)}")
        for name in self.formats:
            FORMATS[name].ready()
        if "page" in self.formats:
            if self.unsure is not None:
                raise UserError("the page's thresholds are its reader's: leave out --unsure")
            check_source(self.onnxruntime_web)
        elif self.onnxruntime_web is not None:
            raise UserError("--onnxruntime_web belongs to --format=page, which is not given")
        self.check.ready()


def export_runtimes(
    workdir: str | Path,
    folder: str | Path,
    name: str = "faceattr",
    version: int | None = None,
    options: RuntimeOptions | None = None,
    saved_model: Callable[[], Path] | None = None,
) -> Path:
    """Writes a workdir's best model as `<folder>/<name>/<version>-runtimes/`, see `export.runtimes`.

    Every file is asked about the same pictures as the Keras model; what was found is printed, and
    stands in the `faceattr.json` beside the file. A failure leaves nothing behind.

    Args:
        workdir: folder of a training run.
        folder: where models are exported to; made where missing.
        name: name of the model.
        version: a positive number that does not exist yet; None takes the one after the highest.
        options: what is written; None takes the defaults.
        saved_model: called when all files have passed, to write the SavedModel beside them; gives
            the folder of its version, whose number the files then take.

    Returns:
        The folder.

    Raises:
        UserError: a bad name, version or option, a version that exists, a package that is missing,
            a network that a format cannot hold, or one that answers otherwise than Keras.
    """
    from faceattr_tf.workdir import Workdir

    options = options or RuntimeOptions()
    options.ready()
    parent = folder_of_model(folder, name, version)
    workdir = Workdir.open(workdir)
    model = workdir.load_model()
    shared = {name: getattr(options, name) for name in ("sensitive", "consistent", "unsure")}
    served = ExportOptions(**shared)
    served.check()
    description = describe(workdir, model, served)
    if _int8(options) and options.litert_types == ("int8",) and not options.check.pictures:
        raise UserError("int8 is calibrated on pictures: give --records or --images")
    with preparing(parent) as temporary:
        prepared = temporary / "runtimes"
        network = _network(model, workdir, description, options, temporary)
        converted = {}
        for form in options.formats:
            (prepared / form).mkdir(parents=True)
            converted[form] = FORMATS[form].convert(network, prepared / form)
        pictures = pictures_to_compare(options.check, workdir)
        networks = [_of_tensorflow(network), *(one for of in converted.values() for one in of)]
        results = verify(networks, model, workdir, description, pictures)
        print(f"compared with Keras on {pictures.title}:")
        print(verification_table(results).text())
        if _int8(options) and network.calibration is None:
            print("LiteRT int8: not written; give --records or --images to calibrate on")
        refuse_unlike(results, options.check.margin)
        for form in options.formats:
            of_form = [result for result in results if result.converted in converted[form]]
            _describe_folder(prepared / form, form, of_form, description, workdir, pictures)
        if saved_model:
            version = int(saved_model().name)
        return publish(prepared, parent, version, RUNTIMES)


def _network(model, workdir, description: dict, options: RuntimeOptions, folder: Path) -> Network:
    """The network with its answers, saved where converters find it."""
    import tensorflow as tf

    tasks, crop = described_tasks(workdir, description), workdir.crop
    model = answering(model, tasks)
    function = device_function(model, tasks, crop, description["tasks"])
    module = tf.Module()
    module.parameters = [variable.value for variable in model.variables]
    shape = crop.height, crop.width, 3
    one = tf.TensorSpec([1, *shape], tf.float32, INPUT)
    for_one = tf.function(function.python_function, input_signature=[one], autograph=False)
    saved, saved_for_one = folder / "saved", folder / "saved_for_one"
    tf.saved_model.save(module, str(saved), {"serving_default": function})
    tf.saved_model.save(module, str(saved_for_one), {"serving_default": for_one})
    calibration = None
    if _int8(options):
        calibration = calibration_crops(options.check, workdir)
    types, web = options.litert_types, options.onnxruntime_web
    return Network(function, saved, saved_for_one, shape, calibration, types, web)


def _int8(options: RuntimeOptions) -> bool:
    return "litert" in options.formats and "int8" in options.litert_types


def _of_tensorflow(network: Network) -> Converted:
    """What the others are compared with: the same part of a SavedModel, in TensorFlow."""
    import tensorflow as tf

    def ask(crops):
        answers = network.function(tf.constant(crops))
        return {name: values.numpy() for name, values in answers.items()}

    files = tuple(path for path in network.saved.rglob("*") if path.is_file())
    return Converted("SavedModel", "float32", files, ask)


def _describe_folder(
    folder: Path,
    form: str,
    results: Sequence[Verified],
    description: dict,
    workdir,
    pictures: Pictures,
) -> None:
    """Writes faceattr.json and the code of the crop beside a format's files; for ONNX Triton's, too."""
    kept = {key: value for key, value in description.items() if key not in _OF_SERVERS}
    tasks = described_tasks(workdir, description)
    count = 1 if form == "litert" else "N"
    code = CROP_CODES[form]
    outputs = runtime_outputs(tasks, description, count, code.name)
    shape = [count, *description["input_shape"]]
    meaning = f"what {code.name} makes of a picture: RGB in 0..255, not rounded"
    described = {
        "runtime": FORMATS[form].NAME,
        "inputs": {INPUT: {"dtype": "float32", "shape": shape, "meaning": meaning}},
        "outputs": outputs,
        **kept,
        "licence": licences(workdir),
        "files": {result.converted.files[0].name: _facts(result, pictures) for result in results},
    }
    if form == "openvino":
        described["settings"] = openvino.SETTINGS
    if form == "onnx":
        (folder / CONFIG).write_text(triton_config(described["inputs"], outputs))
    (folder / METADATA_NAME).write_text(json.dumps(described, indent=1) + "\n")
    shutil.copyfile(code, folder / code.name)


def runtime_outputs(
    tasks: Sequence[Task], description: dict, count: int | str, crop_code: str
) -> dict:
    """What the networks give: name -> dtype, shape and meaning.

    Args:
        tasks: what they predict.
        description: the metadata of the SavedModel.
        count: the first dimension.
        crop_code: name of the file with the code of the crop.
    """
    signatures = description["signatures"]
    outputs = signatures["pixels"]["outputs"] | {
        EMBEDDING: signatures["features"]["outputs"][EMBEDDING]
    }
    in_crop = [
        name
        for fields in description["tasks"]
        for kind, name in fields["outputs"].items()
        if kind in ("points", "outline")
    ]
    found = {}
    for name, tensor in outputs.items():
        meaning = tensor["meaning"].partition("; ")[0]
        if name in in_crop:
            meaning = meaning.replace("in pixels", "from -1 to 1 over the crop")
            meaning += f"; points_in_image of {crop_code} gives pixels of the picture"
        found[name] = tensor | {"shape": [count, *tensor["shape"][1:]], "meaning": meaning}
    return found


def licences(workdir) -> dict:
    """Under which terms the data of a workdir came, and so its weights, as far as is known."""
    recipe = workdir.recipe()
    data = {
        records["name"]: records.get("licence") or "not stated"
        for records in workdir.metadata()["records"]
    }
    others = [Path(path).name for path in (*recipe.warm_starts, *recipe.teachers)]
    if recipe.model.weights:
        others.append(Path(recipe.model.weights).name)
    weights = "the weights inherit the terms of the data"
    if others:
        weights += f", and those of what they began from or were taught by: {', '.join(others)}"
    return {"data": data, "weights": weights}


def _facts(result: Verified, pictures: Pictures) -> dict:
    """What faceattr.json says of a file."""
    return {
        "precision": result.converted.precision,
        "bytes": result.converted.size,
        "compared_on": pictures.kind,
        "pictures": len(pictures.examples.encoded) if pictures.examples else 0,
        "probability_differs_by": result.probability,
        "any_output_differs_by": max(result.largest, result.embedding),
        "labels": result.labels,
        "labels_changed": result.changed,
        "balanced_accuracy": result.accuracy,
    }
