"""Who may import whom, and what must work without TensorFlow."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from backends import on_backend

ROOT = Path(__file__).parent.parent
FLOORS = {
    "data_pipelines": (
        ("errors", "tasks"),
        ("files", "progress", "keras_settings"),
        ("attribute_groups", "formats", "crop"),
        ("readers", "synth"),
        ("detection", "records"),
        ("input", "commands"),
    ),
    "faceattr_tf": (
        ("configs", "layers", "losses", "precision"),
        ("resolution",),
        ("experiment", "workdir"),
        ("models", "evaluation"),
        ("features", "prediction"),
        ("training", "reports", "doctor"),
        ("demo",),
        ("commands",),
    ),
    "export": (),
}
"""The rooms of every package, floor by floor: a room imports from lower floors alone, and not from
the other rooms of its own. The packages stand above each other in this order."""

WITHOUT_TENSORFLOW = (
    "data_pipelines/errors.py",
    "data_pipelines/tasks.py",
    "data_pipelines/detection/density_peaks.py",
    "data_pipelines/detection/response_windows.py",
    "faceattr_tf/layers/",
    "faceattr_tf/losses/",
    "faceattr_tf/evaluation/class_metrics.py",
    "faceattr_tf/evaluation/metrics.py",
    "faceattr_tf/models/",
)


def imported_modules(path: Path) -> set[str]:
    """Modules that a file imports anywhere, inside of functions too, dotted names in full."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import would be one of the own package.
            modules.update(f"{node.module or ''}.{alias.name}" for alias in node.names)
    return modules


def imported_packages(path: Path) -> set[str]:
    """The same, top-level packages alone."""
    return {module.split(".")[0] for module in imported_modules(path)}


def room_of(path: Path) -> str:
    """The folder or module of a file that lies directly in its package; "" for the front door."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "" if parts[1] == "__init__" else parts[1]


@pytest.mark.parametrize("package", FLOORS)
def test_imports_follow_the_table(package):
    order = list(FLOORS)
    floors = {room: level for level, rooms in enumerate(FLOORS[package]) for room in rooms}
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        room = room_of(path)
        if floors and room:
            assert room in floors, f"{path.relative_to(ROOT)}: no room of the table"
        for module in imported_modules(path):
            other, _, rest = module.partition(".")
            assert other not in order[order.index(package) + 1 :], f"{path} imports {module}"
            target = rest.split(".")[0]
            if other == package and floors and room and target not in (room, ""):
                assert floors[target] < floors[room], f"{path.relative_to(ROOT)}: {module}"


def test_every_room_of_the_table_exists():
    for package, floors in FLOORS.items():
        for room in (room for rooms in floors for room in rooms):
            place = ROOT / package / room
            assert place.is_dir() or place.with_suffix(".py").is_file(), place


@pytest.mark.parametrize("place", WITHOUT_TENSORFLOW)
def test_models_and_losses_import_no_tensorflow(place):
    files = sorted((ROOT / place).rglob("*.py")) if place.endswith("/") else [ROOT / place]
    assert files
    for path in files:
        if (
            path.name != "tensorflow_kernels.py"
        ):  # what TensorFlow alone can do, loaded where it runs
            assert "tensorflow" not in imported_packages(path), f"{path.relative_to(ROOT)}"


PROGRAM = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from keras import ops
from data_pipelines import tasks
import faceattr_tf
from faceattr_tf.losses import LOSSES
from faceattr_tf.losses.slice_weights import SliceWeights
from faceattr_tf.models import MODELS, options_of
from faceattr_tf.models.keras_applications import BACKBONES

kinds = (
    tasks.MTFL_ATTRIBUTES, tasks.AGE_RANGE, tasks.LANDMARKS, tasks.AGE,
    tasks.Task("emotion", "distribution", ("happy", "sad")),
)
# Two parts of a face show what all do.
parts = {"facetracer": {"regions": ("face", "eyes")}, "panda": {"parts": ("face", "mouth")}}
# test_keras_applications.py has its own test of the pretrained networks, which are slow to build on JAX.
for name in set(MODELS) - set(BACKBONES):
    options = parts.get(name, {}) | (
        {"width": 0.25} if "width" in options_of(MODELS[name]) else {}
    )
    transformer = "lonet" if name == "tcdcn" else ""
    model = faceattr_tf.build_model(name, kinds, (64, 64, 3), transformer=transformer, **options)
    outputs = model.predict_on_batch(np.zeros((2, 64, 64, 3), "float32"))
    for task in kinds:
        labels = np.stack([task.unknown(), np.ones(task.label_shape, task.label_dtype)])
        for loss in (name for name in LOSSES if LOSSES[name].kind == task.kind):
            values = faceattr_tf.task_loss(task, labels, outputs[task.name], loss=loss)
            unknown, given = ops.convert_to_numpy(values)
            assert unknown == 0 and np.isfinite(given) and given > 0, (name, loss, values)
slices = SliceWeights((6, 3, 1), step_size=0.5, limit=3.0)
numbers = ops.convert_to_tensor(np.array([0, 2, -1], "int32"))
slices.update(slices.statistics(numbers, ops.ones(3)))
weights = ops.convert_to_numpy(slices.of_images(numbers))
assert 0 < weights[0] < 1 and weights[1] == 3 and weights[2] == 1, weights
print("done")
"""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_models_and_losses_run_without_tensorflow(backend):
    done = on_backend(backend, PROGRAM)
    assert done.stdout.strip() == "done", done.stderr


def test_front_door_loads_nothing_before_it_is_used():
    program = (
        "import sys, faceattr_tf\n"
        "assert {'build_model', 'evaluate_workdir'} <= set(dir(faceattr_tf))\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
        "try: faceattr_tf.nothing\n"
        "except AttributeError: print('done')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert done.stdout.strip() == "done", done.stderr


def test_front_door_lists_what_exists():
    import faceattr_tf

    for name in faceattr_tf.__all__:
        assert getattr(faceattr_tf, name) is not None
