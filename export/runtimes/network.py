"""What a converter is given, and what it gives back."""

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError

INPUT = "crops"
"""Name of the input of all files: float32 `[N, height, width, 3]`, RGB in 0..255."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that is to be converted, with softmax, sigmoid and thresholds behind its heads.

    Attributes:
        function: the traced function of crops, see `export.signatures.device_function`.
        saved: SavedModel of it, for N crops.
        saved_for_one: SavedModel of it, for one crop.
        shape: height, width and channels of a crop.
        calibration: crops `[n, height, width, 3]` by which ranges of whole numbers are chosen; None
            where there are no pictures.
        types: which of LiteRT's types are written.
        onnxruntime_web: folder of that package, for the page; None for npm's.
    """

    function: Callable
    saved: Path
    saved_for_one: Path
    shape: tuple[int, int, int]
    calibration: np.ndarray | None = None
    types: tuple[str, ...] = ("float32",)
    onnxruntime_web: str | None = None


@dataclasses.dataclass(frozen=True)
class Converted:
    """A converted network.

    Attributes:
        runtime: name of the runtime, for people.
        precision: of its weights: `float32`, `float16` or `int8`.
        files: what it consists of.
        ask: function of crops float32 `[N, height, width, 3]` to output name -> values `[N, ...]`,
            computed by the runtime from the files.
    """

    runtime: str
    precision: str
    files: tuple[Path, ...]
    ask: Callable[[np.ndarray], dict[str, np.ndarray]]

    @property
    def title(self) -> str:
        """Runtime and precision, for people."""
        return f"{self.runtime} {self.precision}"

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.stat().st_size for file in self.files)


def require(form: str, *packages: str) -> None:
    """Raises UserError where a package of a format is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"format {form}: no package {package}; pip install 'faceattr_tf[{form}]' brings it"
            )


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
