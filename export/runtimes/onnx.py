"""ONNX, for ONNX Runtime, Triton and browsers: `model.onnx`, by tf2onnx.

tf2onnx is what Keras' own `model.export(format="onnx")` calls on TensorFlow, too; called here by
itself it keeps the names of the outputs.
"""

import logging
from pathlib import Path

from data_pipelines.errors import UserError
from export.runtimes.network import INPUT, Converted, Network, first_line, require

NAME = "ONNX Runtime"

OPERATIONS = 17
"""Version of ONNX' set of operations: of 2022, known to every runtime in use."""


def ready() -> None:
    """Raises UserError where a package is missing."""
    require("onnx", "onnx", "onnxruntime", "tf2onnx")


def convert(network: Network, folder: Path) -> list[Converted]:
    """Writes `model.onnx`.

    Raises:
        UserError: ONNX has no operation for something in the network.
    """
    import tensorflow as tf
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    file = folder / "model.onnx"
    crops = tf.TensorSpec([None, *network.shape], tf.float32, INPUT)
    try:
        model, _ = tf2onnx.convert.from_function(network.function, [crops], opset=OPERATIONS)
    except Exception as error:  # tf2onnx raises whatever it meets
        raise UserError(f"tf2onnx cannot convert this network ({first_line(error)})") from error
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "N"
    file.write_bytes(model.SerializeToString())
    return [Converted(NAME, "float32", (file,), loaded(file))]


def loaded(file: Path):
    """The function of a file: crops `[N, height, width, 3]` to output name -> values `[N, ...]`."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def ask(crops):
        return dict(zip(names, session.run(names, {INPUT: crops}), strict=True))

    return ask
