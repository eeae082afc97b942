"""ONNX Runtime Web: the two files of it that a page needs, from npm or from a folder."""

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from data_pipelines.errors import UserError
from data_pipelines.files import local

PACKAGE = "onnxruntime-web"

VERSION = "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""The version that is fetched, and what npm's registry says of its archive."""

FILES = {
    "dist/ort.wasm.bundle.min.mjs": "ort.js",
    "dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
"""Paths in the package -> names in the page's folder. Not every server knows `.mjs` for a script."""

_SECONDS = 600  # 33 MB, over whatever line there is


def check_source(source: str | Path | None) -> None:
    """Raises UserError where the runtime will not be there: no npm, or a folder without it."""
    if source is None:
        if shutil.which("npm") is None:
            raise UserError(
                f"format page: no npm to fetch {PACKAGE} {VERSION} with; install Node.js, or unpack "
                "that package and name its folder by --onnxruntime_web=FOLDER"
            )
        return
    folder = local(source)
    for name in ("package.json", *FILES):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: no such file; expected the package {PACKAGE}")
    version_of(folder)


def version_of(folder: Path) -> str:
    """The version of the package in a folder; UserError where it is another package."""
    file = folder / "package.json"
    try:
        fields = json.loads(file.read_text())
        if fields["name"] == PACKAGE:
            return str(fields["version"])
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{file}: no description of the package {PACKAGE}")


def copy_runtime(source: str | Path | None, target: Path) -> str:
    """Puts the runtime's files into a folder; gives its version.

    Args:
        source: folder of the unpacked package; None fetches `VERSION` by npm, whose archive must
            be the one that was published.
        target: the page's folder.

    Raises:
        UserError: npm cannot fetch it, or what came is something else.
    """
    check_source(source)
    if source is not None:
        for path, name in FILES.items():
            shutil.copyfile(local(source) / path, target / name)
        return version_of(local(source))
    with tempfile.TemporaryDirectory() as temporary:
        archive = _fetch(Path(temporary))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if f"sha512-{digest}" != INTEGRITY:
            raise UserError(f"{PACKAGE} {VERSION}: npm brought something else than was published")
        with tarfile.open(archive) as opened:
            for path, name in FILES.items():
                with opened.extractfile(f"package/{path}") as file:
                    (target / name).write_bytes(file.read())
    return VERSION


def _fetch(folder: Path) -> Path:
    """The package's archive, in a folder."""
    # A version never changes, so that what npm has in its cache is as good.
    options = "--silent", "--ignore-scripts", "--prefer-offline", "--fetch-retries=1"
    command = ["npm", "pack", f"{PACKAGE}@{VERSION}", *options]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        said = done.stderr.strip() or f"status {done.returncode}"
    except subprocess.TimeoutExpired:
        said = f"no answer in {_SECONDS} seconds"
    found = list(folder.glob("*.tgz"))
    if len(found) != 1:
        raise UserError(
            f"npm cannot fetch {PACKAGE} {VERSION} ({said.splitlines()[-1][:200]}); unpack it "
            "elsewhere and name its folder by --onnxruntime_web=FOLDER"
        )
    return found[0]
