"""Networks that answer in a process of Node.js."""

import json
import shutil
import subprocess
import weakref
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError

LEAST = 18
"""Major version of Node.js from which on ONNX Runtime Web runs in it."""

_TYPES = {"float32": np.float32, "int32": np.int32}


def node_is_here() -> bool:
    """Whether there is a Node.js that is new enough."""
    if shutil.which("node") is None:
        return False
    done = subprocess.run(["node", "--version"], capture_output=True, text=True, check=False)
    major = done.stdout.strip().removeprefix("v").partition(".")[0]
    return done.returncode == 0 and major.isdecimal() and int(major) >= LEAST


class NodeSession:
    """A function of crops `[N, height, width, 3]` to output name -> values `[N, ...]`.

    The process is started when it is first asked, and ends with the object.

    Args:
        script: what Node.js runs, see `export/templates/page/ask.mjs` for how they speak.
        folder: of the network, given to it.
    """

    def __init__(self, script: Path, folder: Path):
        """Starts nothing yet."""
        self._command = ["node", str(script), str(folder)]
        self._process: subprocess.Popen | None = None

    def __call__(self, crops: np.ndarray) -> dict[str, np.ndarray]:
        """Asks about crops.

        Raises:
            UserError: the process has ended.
        """
        if self._process is None:
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            self._process = subprocess.Popen(self._command, **pipes)
            weakref.finalize(self, _end, self._process)
        crops = np.ascontiguousarray(crops, np.float32)
        asking, answering = self._process.stdin, self._process.stdout
        try:
            asking.write(json.dumps({"shape": crops.shape}).encode() + b"\n" + crops.tobytes())
            asking.flush()
            heads = json.loads(answering.readline())
            return {head["name"]: _read(answering, head) for head in heads}
        except (BrokenPipeError, ValueError) as error:
            said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            reason = next((line for line in said if "Error" in line), "it said nothing")
            raise UserError(f"Node.js cannot run the network: {reason[:200]}") from error


def _read(stream, head: dict) -> np.ndarray:
    kind = np.dtype(_TYPES[head["type"]])
    content = stream.read(int(np.prod(head["shape"], dtype=int)) * kind.itemsize)
    return np.frombuffer(content, kind).reshape(head["shape"])


def _end(process: subprocess.Popen) -> None:
    process.stdin.close()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    process.stderr.close()
