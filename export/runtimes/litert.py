"""LiteRT (formerly TensorFlow Lite), for telephones: `.tflite` files, by TensorFlow's converter.

A file takes one crop a call, so that all shapes in it are known; delegates ask for that.
"""

import contextlib
import itertools
import warnings
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from export.runtimes.network import INPUT, Converted, Network, first_line

NAME = "LiteRT"

TYPES = ("float32", "float16", "int8")
"""Of the weights: as trained; half of the bytes, computed in float32 where the processor has no
float16; whole numbers in all layers, with float32 going in and coming out."""


IN_FLOAT = ("BATCH_MATMUL",)
"""Operations that stay in float where all else is int8: the interpreter's default delegate gets them
wrong (TensorFlow 2.21), and the points of networks with a spatial transformer were off by a sixth of
the crop."""

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def ready() -> None:
    """Nothing beyond TensorFlow is needed."""


def convert(network: Network, folder: Path) -> list[Converted]:
    """Writes `model_<type>.tflite` for every type that is asked for.

    Without pictures to calibrate on there is no int8.

    Raises:
        UserError: LiteRT has no operation for something in the network.
    """
    converted = []
    for kind in network.types:
        if kind == "int8" and network.calibration is None:
            continue
        file = folder / f"model_{kind}.tflite"
        file.write_bytes(_content(network, kind))
        converted.append(Converted(NAME, kind, (file,), loaded(file)))
    return converted


def _content(network: Network, kind: str) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(network.saved_for_one))
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if kind == "int8":
        converter.representative_dataset = lambda: (
            {INPUT: crop[None]} for crop in network.calibration
        )
        # Comparisons with thresholds have no form in int8; everything else has to take it.
        operations = tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS
        converter.target_spec.supported_ops = list(operations)
    try:
        with _without_warning():
            return _of_int8(converter) if kind == "int8" else converter.convert()
    except Exception as error:  # the converter's own errors have no common class
        raise UserError(
            f"LiteRT cannot hold this network in {kind} ({first_line(error)}); --litert_types "
            "chooses others"
        ) from error


def _of_int8(converter) -> bytes:
    """Converts to int8, but for `IN_FLOAT` and what is done to pixels, which are small here.

    Calibration (TensorFlow 2.21) looks at a value after the next operation may have written over it:
    a reversal of colours from -1 to 1 got the range of what they are multiplied to, -128 to 128, and
    MobileNets that see colours as BGR lost 16 points of balanced accuracy. Behind layers with weights
    values keep their size.
    """
    import tensorflow as tf

    options = tf.lite.experimental.QuantizationDebugOptions(
        denylisted_ops=list(IN_FLOAT), denylisted_nodes=_before_layers(converter)
    )
    chosen = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=converter.representative_dataset, debug_options=options
    )
    return chosen.get_nondebug_quantized_model()


def _before_layers(converter) -> list[str]:
    """Names of the values that are computed before the first layer with weights."""
    import tensorflow as tf

    optimizations, converter.optimizations = converter.optimizations, []
    try:
        interpreter = tf.lite.Interpreter(model_content=converter.convert())
    finally:
        converter.optimizations = optimizations
    operations = interpreter._get_ops_details()
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    before = itertools.takewhile(lambda one: one["op_name"] not in _LAYERS, operations)
    return [names[index] for one in before for index in one["outputs"]]


def loaded(file: Path):
    """The function of a file: crops `[N, height, width, 3]` to output name -> values `[N, ...]`."""
    import tensorflow as tf

    with _without_warning():
        interpreter = tf.lite.Interpreter(str(file), num_threads=2)
    run = interpreter.get_signature_runner()

    def ask(crops):
        rows = [run(**{INPUT: crop[None]}) for crop in crops]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    return ask


@contextlib.contextmanager
def _without_warning():
    """The interpreter moves to a package of its own with a TensorFlow that setup.cfg excludes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter is deprecated")
        yield
