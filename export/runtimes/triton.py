"""What Triton Inference Server has to be told of an ONNX or OpenVINO network: `config.pbtxt`.

In its model repository, `MODEL/config.pbtxt` stands beside `MODEL/1/model.onnx`. The field `name` is
left out: Triton then takes that of the folder.
"""

CONFIG = "config.pbtxt"

MOST = 32
"""Crops that Triton joins to a batch at most, as the largest that TensorFlow Serving is told."""

_TYPES = {"float32": "TYPE_FP32", "int32": "TYPE_INT32"}


def triton_config(inputs: dict[str, dict], outputs: dict[str, dict]) -> str:
    """The configuration of a network whose tensors have the batch first.

    Args:
        inputs, outputs: name -> `dtype` and `shape`, the batch first, as `faceattr.json` has them.
    """
    parts = [
        *(_tensor("input", name, tensor) for name, tensor in inputs.items()),
        *(_tensor("output", name, tensor) for name, tensor in outputs.items()),
    ]
    head = f'backend: "onnxruntime"\nmax_batch_size: {MOST}\ndynamic_batching {{ }}\n'
    return head + "".join(parts)


def _tensor(kind: str, name: str, tensor: dict) -> str:
    dims = tensor["shape"][1:]
    # Triton knows no tensor without dimensions beside the batch: it is told of one, and drops it.
    reshape = "" if dims else "  reshape { shape: [ ] }\n"
    shown = ", ".join(map(str, dims or [1]))
    return (
        f"{kind} {{\n"
        f'  name: "{name}"\n'
        f"  data_type: {_TYPES[tensor['dtype']]}\n"
        f"  dims: [ {shown} ]\n{reshape}}}\n"
    )
