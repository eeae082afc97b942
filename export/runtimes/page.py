"""A page that runs the network in a browser: a folder that any server of files can give out.

    page/
        index.html, page.css, page.js, faces.js, sources.js     the page
        face_crop.js                                            the crop
        model.onnx                                              the network
        ort.js, ort-wasm-simd-threaded.wasm                     ONNX Runtime Web

Every address in it is one of the folder, and its Content-Security-Policy forbids all others.
"""

import shutil
from pathlib import Path

from export.runtimes import onnx
from export.runtimes.network import Converted, Network
from export.runtimes.node import NodeSession, node_is_here
from export.runtimes.onnxruntime_web import copy_runtime
from faceattr_tf.demo.page import TEMPLATES as SHARED
from faceattr_tf.reports.page import render

NAME = "ONNX Runtime Web"

TEMPLATES = Path(__file__).parents[1] / "templates" / "page"

CROP_CODE = TEMPLATES / "face_crop.js"


def ready() -> None:
    """Raises UserError where a package is missing."""
    onnx.ready()


def convert(network: Network, folder: Path) -> list[Converted]:
    """Writes the folder's files.

    What they answer is asked of the very files in Node.js, which runs ONNX Runtime Web as browsers
    do; without Node.js, of the network in ONNX Runtime.

    Raises:
        UserError: ONNX has no operation for something in the network, or the runtime is not there.
    """
    (converted,) = onnx.convert(network, folder)
    version = copy_runtime(network.onnxruntime_web, folder)
    (folder / "index.html").write_text(render("index.html.jinja", TEMPLATES, SHARED))
    styles = (render(name, TEMPLATES, SHARED) for name in ("style.css", "faces.css", "page.css"))
    (folder / "page.css").write_text("\n".join(styles))
    for file in (TEMPLATES / "page.js", SHARED / "faces.js", SHARED / "sources.js"):
        shutil.copyfile(file, folder / file.name)
    licence = render("mit.txt.jinja", TEMPLATES, version=version)
    (folder / "ort.LICENSE.txt").write_text(licence)
    if not node_is_here():
        return [converted]
    return [Converted(NAME, "float32", converted.files, NodeSession(TEMPLATES / "ask.mjs", folder))]
