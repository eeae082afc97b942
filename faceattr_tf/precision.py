"""In which arithmetic a device computes best: `precision="auto"` of a recipe.

bfloat16 is a gain where the device has units for it and a loss where it has none: on a processor
without them a convolution takes nine times as long as in float32. What the device is decides, not
a timing, which might come out differently when a run is continued.
"""

import os
import pathlib

from data_pipelines.errors import UserError

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
UNITS = ("avx512_bf16", "amx_bf16")
"""Features of a processor, as Linux names them, with which TensorFlow computes in bfloat16."""
HIDING = (
    *("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"),
    *("AVX512_MIC", "AVX512_MIC_4OPS"),
)
"""Values of `ONEDNN_MAX_CPU_ISA` under which oneDNN does not use these units."""
FIRST_CAPABILITY = (8, 0)
"""Compute capability of the first NVIDIA GPUs with units for bfloat16."""


def resolve(precision: str, strategy: str = "default") -> tuple[str, str]:
    """The Keras dtype policy that a recipe's precision stands for on this machine, and why.

    Args:
        precision: one of `PRECISIONS`; all but `auto` stand for themselves.
        strategy: the recipe's strategy, see `faceattr_tf.training.distribution`.

    Returns:
        The policy, and a reason in words that follows "since"; empty unless `auto` was resolved.

    Raises:
        UserError: it is none of `PRECISIONS`.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r} is none of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision, ""
    if strategy == "tpu":
        return "mixed_bfloat16", "TPUs compute in bfloat16"
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return of_gpus([gpu.get("compute_capability") for gpu in details])
    return of_processor(processor_features(), os.environ)


def of_gpus(capabilities: list[tuple[int, int] | None]) -> tuple[str, str]:
    """As `resolve`, of GPUs with these compute capabilities; None where it is not known."""
    if all(capability and capability >= FIRST_CAPABILITY for capability in capabilities):
        return "mixed_bfloat16", "the GPU computes in bfloat16"
    return "float32", "not every GPU is known to compute in bfloat16 (compute capability 8.0)"


def of_processor(features: set[str], environment: dict) -> tuple[str, str]:
    """As `resolve`, of a processor with these features.

    Args:
        features: what the processor can do, as `processor_features` gives them.
        environment: the process's; variables of oneDNN may hide what the processor has.
    """
    units = [unit for unit in UNITS if unit in features]
    if not units:
        return "float32", f"the processor has none of {', '.join(UNITS)}"
    if environment.get("TF_ENABLE_ONEDNN_OPTS") == "0":
        return "float32", "TF_ENABLE_ONEDNN_OPTS=0 leaves the processor's bfloat16 unused"
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        if environment.get(name, "").upper() in HIDING:
            return "float32", f"{name}={environment[name]} leaves the processor's bfloat16 unused"
    return "mixed_bfloat16", f"the processor has {' and '.join(units)}"


def processor_features(file: str | os.PathLike = "/proc/cpuinfo") -> set[str]:
    """The features of this machine's processor; none where there is no such file (not Linux)."""
    return set(_processor(file).get("flags", "").split())


def processor_name(file: str | os.PathLike = "/proc/cpuinfo") -> str:
    """The name of this machine's processor."""
    import platform

    return _processor(file).get("model name") or platform.processor() or platform.machine()


def _processor(file) -> dict[str, str]:
    try:
        lines = pathlib.Path(file).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines[: lines.index("") if "" in lines else None])
    return {name.strip(): value.strip() for name, _, value in pairs}
