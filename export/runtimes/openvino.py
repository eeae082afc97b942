"""OpenVINO, for Intel's processors: `model.xml` and `model.bin`, by OpenVINO's own converter.

Keras' `model.export(format="openvino")` calls the same converter; called here by itself it keeps the
names of the outputs.
"""

from pathlib import Path

from data_pipelines.errors import UserError
from export.runtimes.network import INPUT, Converted, Network, first_line, require

NAME = "OpenVINO"

SETTINGS = {"INFERENCE_PRECISION_HINT": "f32"}
"""By which it answers as it was checked: on processors with bfloat16 it would take that."""


def ready() -> None:
    """Raises UserError where the package is missing."""
    require("openvino", "openvino")


def convert(network: Network, folder: Path) -> list[Converted]:
    """Writes `model.xml` and `model.bin`.

    Raises:
        UserError: OpenVINO has no operation for something in the network.
    """
    import openvino

    file = folder / "model.xml"
    try:
        model = openvino.convert_model(str(network.saved))
    except Exception as error:  # frontends raise errors of several kinds
        raise UserError(f"OpenVINO cannot convert this network ({first_line(error)})") from error
    openvino.save_model(model, str(file), compress_to_fp16=False)
    return [Converted(NAME, "float32", (file, file.with_suffix(".bin")), loaded(file))]


def loaded(file: Path):
    """The function of a file: crops `[N, height, width, 3]` to output name -> values `[N, ...]`."""
    import openvino

    compiled = openvino.compile_model(str(file), "CPU", SETTINGS)

    def ask(crops):
        found = compiled({INPUT: crops})
        return {output.get_any_name(): found[output] for output in compiled.outputs}

    return ask
