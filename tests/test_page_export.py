"""The page that runs a network in the browser: its crop, its runtime, and what lies in its folder."""

import importlib.util
import io
import json
import re
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
from tiny_workdir import draw_picture, encode

import export
from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from export.check import Check
from export.commands.export import main
from export.runtimes import node, onnxruntime_web, page
from export.runtimes.face_crop import TEMPLATE, crop_image, points_in_image
from export.runtimes.onnxruntime_web import FILES, PACKAGE, VERSION, copy_runtime

NODE = pytest.mark.skipif(not node.node_is_here(), reason="no Node.js here")
ONNX = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "tf2onnx"))),
    reason="no extra onnx here",
)
pytestmark = pytest.mark.usefixtures("untimed")
ADDRESS = re.compile(r"https?://[^\s\"'`)]+")

CROP_IN_NODE = """
import {readFileSync, writeFileSync} from "node:fs";
const [, , code, folder] = process.argv;
const {cropImage, pointsInImage} = await import(code);
const cases = JSON.parse(readFileSync(`${folder}/cases.json`));
const said = cases.map(({width, height, crop, box, landmarks}, i) => {
  const image = {data: new Uint8Array(readFileSync(`${folder}/${i}.rgba`)), width, height};
  try {
    const {crops, transform} = cropImage(image, crop, box, landmarks);
    writeFileSync(`${folder}/${i}.crops`, new Uint8Array(crops.buffer));
    return {transform, points: pointsInImage([[-1, 0.5], [0.25, 1]], transform, crop)};
  } catch (error) {
    return {error: error.message};
  }
});
console.log(JSON.stringify(said));
"""


@pytest.fixture
def package(tmp_path):
    """A folder that looks like the package."""
    folder = tmp_path / "package"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"export const what = {name!r};")
    (folder / "package.json").write_text(json.dumps({"name": PACKAGE, "version": "9.9.9"}))
    return folder


def faces(kind: str, count: int) -> list[dict]:
    """Crops, sizes and places of faces of a kind, some unknown, some reaching out of the picture."""
    draw = np.random.default_rng(len(kind))
    found = []
    for number in range(count):
        height, width = draw.integers(20, 300, 2)
        crop = Crop(
            kind,
            *draw.integers(8, 60, 2).tolist(),
            margin=float(draw.choice([0.0, 0.2])),
            vertical=float(draw.choice([0.0, 0.1])),
            window=float(draw.choice([60, 150])),
        )
        box = draw.uniform([-20, -20, 5, 5], [width, height, width, height])
        turn = draw.normal(0, 0.4)
        axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        points = (np.array(TEMPLATE) - 0.5) * draw.uniform(10, 200) + draw.normal(0, 2, (5, 2))
        points = points @ axes + draw.uniform(0, [width, height])
        found.append(
            {
                "height": int(height),
                "width": int(width),
                "crop": crop.to_dict(),
                "box": box.tolist() if number % 3 else None,
                "landmarks": points.tolist() if number % 5 else None,
            }
        )
    return found


def crops_in_node(cases, pictures, folder):
    """What face_crop.js makes of pictures: per case transform and points, or its error; and pixels."""
    (folder / "cases.json").write_text(json.dumps(cases))
    for number, pixels in enumerate(pictures):
        alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        (folder / f"{number}.rgba").write_bytes(np.concatenate([pixels, alpha], 2).tobytes())
    (folder / "run.mjs").write_text(CROP_IN_NODE)
    shutil.copyfile(page.CROP_CODE, folder / "face_crop.mjs")
    command = ["node", "run.mjs", "./face_crop.mjs", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    said, found = json.loads(done.stdout), []
    for number, case in enumerate(cases):
        file = folder / f"{number}.crops"
        shape = 1, case["crop"]["height"], case["crop"]["width"], 3
        found.append(np.frombuffer(file.read_bytes(), "f4").reshape(shape) if file.exists() else 0)
    return said, found


@NODE
@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("none", 0), ("box", 0), ("window", 0), ("nose", 0), ("align", 0.02), ("affine", 0.02)],
)
def test_the_crop_in_javascript_has_the_pixels_of_the_one_in_python(kind, tolerance, tmp_path):
    cases, draw = faces(kind, 40), np.random.default_rng(0)
    pictures = [draw.integers(0, 256, (case["height"], case["width"], 3), "u1") for case in cases]
    said, found = crops_in_node(cases, pictures, tmp_path)
    for case, pixels, one, crops in zip(cases, pictures, said, found, strict=True):
        expected, transform = crop_image(pixels, case["crop"], case["box"], case["landmarks"])
        np.testing.assert_allclose(crops, expected, rtol=0, atol=tolerance)
        points = points_in_image(np.array([[-1, 0.5], [0.25, 1]]), transform, case["crop"])
        np.testing.assert_allclose(one["points"], points, rtol=1e-5, atol=1e-3)


@NODE
def test_a_face_far_away_is_refused_there_too(tmp_path):
    case = faces("box", 1)[0] | {"box": [1e9, 0, 10, 10]}
    (said,), _ = crops_in_node([case], [draw_picture(0, case["height"], case["width"])], tmp_path)
    assert said == {"error": "box or landmarks lie too far from the image"}


@ONNX
def test_every_address_of_the_folder_lies_in_it(workdir, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "node_is_here", lambda: False)
    target = [f"--workdir={workdir.path}", f"--output={tmp_path / 'models'}", "--format=page"]
    main([*target, f"--onnxruntime_web={package}"])
    assert "ONNX Runtime float32" in capsys.readouterr().out
    folder = tmp_path / "models" / "faceattr" / "1-runtimes" / "page"
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "model.onnx", "faceattr.json", "face_crop.js", *FILES.values()} <= names
    html = (folder / "index.html").read_text()
    named = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert {name for name in named if name != "data:,"} <= names
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)[1]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert "unsafe-inline" not in policy and "<script>" not in html and "style=" not in html
    for file in folder.iterdir():
        if file.suffix in (".html", ".css") or file.name in ("page.js", "faces.js", "sources.js"):
            assert not ADDRESS.search(file.read_text()), file
    for name in re.findall(r'from "\./([^"]+)"', (folder / "page.js").read_text()):
        assert name in names
    description = json.loads((folder / "faceattr.json").read_text())
    assert description["inputs"]["crops"]["meaning"].startswith("what face_crop.js makes")
    assert "face_crop.py" not in json.dumps(description)
    assert description["crop"]["kind"] == "align" and description["licence"]
    licence = (folder / "ort.LICENSE.txt").read_text()
    assert "onnxruntime-web 9.9.9" in licence and "MIT" in licence


@pytest.fixture(scope="module")
def from_npm(tmp_path_factory):
    """A page of the real runtime, which npm fetches or has in its cache."""
    folder = tmp_path_factory.mktemp("npm")
    try:
        copy_runtime(None, folder)
    except UserError as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture
def real_package(from_npm, tmp_path):
    """The package as it would lie unpacked."""
    (tmp_path / "real" / "dist").mkdir(parents=True)
    for path, name in FILES.items():
        shutil.copyfile(from_npm / name, tmp_path / "real" / path)
    fields = {"name": PACKAGE, "version": VERSION}
    (tmp_path / "real" / "package.json").write_text(json.dumps(fields))
    return tmp_path / "real"


@ONNX
@NODE
@pytest.mark.slow
def test_the_page_answers_as_keras_does(workdir, real_package, tmp_path, capsys):
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(encode(draw_picture(seed), ".png"))
    check = Check(images=str(tmp_path))
    options = export.RuntimeOptions(("page",), check=check, onnxruntime_web=str(real_package))
    folder = export.export_runtimes(workdir.path, tmp_path / "models", options=options)
    assert "ONNX Runtime Web float32" in capsys.readouterr().out
    facts = json.loads((folder / "page" / "faceattr.json").read_text())["files"]["model.onnx"]
    assert facts["pictures"] == 3 and facts["probability_differs_by"] < 1e-5
    assert facts["labels_changed"] == 0


@NODE
def test_a_network_that_does_not_run_there_is_a_line(tmp_path):
    with pytest.raises(UserError, match="^Node.js cannot run the network: .*ort.js"):
        node.NodeSession(page.TEMPLATES / "ask.mjs", tmp_path)(np.zeros([1, 2, 2, 3], "f4"))


def test_without_npm_a_line_says_what_to_do(workdir, tmp_path, monkeypatch):
    monkeypatch.setattr(page.onnx, "ready", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    options = export.RuntimeOptions(("page",))
    with pytest.raises(UserError, match="no npm .* --onnxruntime_web=FOLDER"):
        export.export_runtimes(workdir.path, tmp_path / "models", options=options)
    assert not (tmp_path / "models").exists()


def test_what_npm_brings_must_be_what_was_published(tmp_path, monkeypatch):
    def fetch(folder):
        with tarfile.open(folder / "x.tgz", "w:gz") as archive:
            for name in FILES:
                archive.addfile(tarfile.TarInfo(f"package/{name}"), io.BytesIO())
        return folder / "x.tgz"

    monkeypatch.setattr(onnxruntime_web, "_fetch", fetch)
    monkeypatch.setattr(onnxruntime_web, "check_source", lambda source: None)
    with pytest.raises(UserError, match="something else than was published"):
        copy_runtime(None, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_npm_that_fails_is_a_line(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho code E404 >&2\necho not found >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(
        UserError, match=r"npm cannot fetch onnxruntime-web .*\(not found\); unpack"
    ):
        copy_runtime(None, tmp_path)


def test_a_folder_that_is_another_package_is_a_line(package):
    (package / "package.json").write_text('{"name": "react", "version": "1"}')
    with pytest.raises(UserError, match="no description of the package onnxruntime-web"):
        onnxruntime_web.check_source(package)
    (package / next(iter(FILES))).unlink()
    with pytest.raises(UserError, match="no such file; expected the package onnxruntime-web"):
        onnxruntime_web.check_source(package)


@pytest.mark.parametrize("form", ["litert", "saved_model"])
def test_a_runtime_for_no_page_is_a_mistake(workdir, tmp_path, form):
    arguments = [f"--workdir={workdir.path}", f"--output={tmp_path}", f"--format={form}"]
    with pytest.raises(UserError, match="--onnxruntime_web belongs to --format=page"):
        main([*arguments, "--onnxruntime_web=x"])
    assert not list(tmp_path.iterdir())
