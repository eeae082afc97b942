"""What a run would find on this machine: versions, devices, precision, Keras, space, extras."""

import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
from collections.abc import Iterator

from data_pipelines.keras_settings import NEEDED, configured
from faceattr_tf.precision import UNITS, processor_features, processor_name, resolve

DISTRIBUTION = "faceattr_tf"
VERSIONS = (
    *("tensorflow", "keras", "tensorflow-datasets", "numpy", "opencv-python-headless"),
    *("Pillow", "mtcnn", "scikit-learn"),
)
FEATURES = ("avx2", "avx512f", *UNITS)


def report() -> Iterator[tuple[str, str]]:
    """The page, line by line: what, and what was found."""
    yield DISTRIBUTION, _version(DISTRIBUTION)
    yield "Python", f"{platform.python_version()} on {platform.platform(terse=True)}"
    for name in VERSIONS:
        yield name, _version(name)
    features = processor_features()
    yield "processor", f"{processor_name()}, {os.cpu_count()} cores"
    known = ", ".join(f"{name} {'yes' if name in features else 'no'}" for name in FEATURES)
    yield "its features", known if features else "not known on this system"
    yield from _devices()
    precision, reason = resolve("auto")
    yield "precision=auto", f"{precision}, since {reason}"
    yield from _keras()
    yield from _space()
    yield from extras()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _devices() -> Iterator[tuple[str, str]]:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        details = tf.config.experimental.get_device_details(gpu)
        capability = ".".join(map(str, details.get("compute_capability", ("not known",))))
        yield "GPU", f"{details.get('device_name', gpu.name)}, compute capability {capability}"
    if not gpus:
        built = tf.test.is_built_with_gpu_support()
        yield "GPU", f"none is used: {why_no_gpu(built, os.environ)}"


def why_no_gpu(built: bool, environment: dict, driver: str = "/proc/driver/nvidia/version") -> str:
    """Why TensorFlow lists no GPU.

    Args:
        built: whether TensorFlow was built with support for GPUs.
        environment: variables of the process.
        driver: a file that NVIDIA's driver makes while it is loaded.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if not built:
        return "this TensorFlow was built without support for GPUs"
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible} hides them"
    if not pathlib.Path(driver).exists():
        return "no driver of NVIDIA is loaded"
    return (
        "the driver is there, but not CUDA's libraries; pip install 'tensorflow[and-cuda]' brings "
        "them"
    )


def _keras() -> Iterator[tuple[str, str]]:
    found = configured()
    for what, name in (("Keras backend", "backend"), ("image data format", "image_data_format")):
        value, place = found.get(name, (NEEDED[name], "default"))
        instead = "" if value == NEEDED[name] else f"; commands take {NEEDED[name]} instead"
        yield what, f"{value} ({place}){instead}"


def _space() -> Iterator[tuple[str, str]]:
    for what, folder in (("working folder", "."), ("temporary folder", None)):
        import tempfile

        path = os.path.abspath(folder or tempfile.gettempdir())
        usage = shutil.disk_usage(path)
        yield f"free, {what}", f"{usage.free / 1e9:,.1f} of {usage.total / 1e9:,.1f} GB ({path})"
    try:
        pages = {name: os.sysconf(name) for name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES")}
        free = os.sysconf("SC_AVPHYS_PAGES") * pages["SC_PAGE_SIZE"]
        yield (
            "memory",
            f"{pages['SC_PHYS_PAGES'] * pages['SC_PAGE_SIZE'] / 1e9:,.1f} GB, {free / 1e9:,.1f} free",
        )
    except (OSError, ValueError):
        pass


def extras(requirements: list[str] | None = None) -> Iterator[tuple[str, str]]:
    """Which of the package's extras are complete, and how the others are installed.

    Args:
        requirements: lines as the metadata of an installed package lists them; default: our own.
    """
    if requirements is None:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    missing: dict[str, list[str]] = {}
    for text in requirements:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
        if not extra:
            continue
        name = re.match(r"[\w.-]+", text)[0]
        absent = missing.setdefault(extra[1], [])
        if _version(name) == "not installed":
            absent.append(name)
    for extra, names in missing.items():
        install = f"missing {', '.join(names)}: pip install '{DISTRIBUTION}[{extra}]'"
        yield f"extra {extra}", install if names else "complete"
