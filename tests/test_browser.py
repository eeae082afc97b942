"""Both pages in headless Chromium: what they show, how they are used, and what they ask for."""

import functools
import http.server
import threading

import cv2
import numpy as np
import pytest
from browser import Browser
from test_demo import two_faces
from test_page_export import NODE, ONNX, copy_runtime
from tiny_workdir import draw_picture, encode, make_workdir
from untrained_run import make_run

import export
from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from export.runtimes import onnxruntime_web, verification
from faceattr_tf.demo.server import DemoServer
from faceattr_tf.demo.service import Service
from faceattr_tf.prediction.analyzer import Analyzer

pytestmark = pytest.mark.slow

THRESHOLDS = {"attributes": {"temperature": 2.0, "thresholds": [0.1, 0.5, 0.9]}}


@pytest.fixture(scope="module")
def chromium():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def telephone():
    with Browser(width=500) as browser:  # the narrowest window that Chromium has
        metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
        browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield browser


@pytest.fixture(scope="module")
def analyzer(tmp_path_factory):
    workdir = make_run(tmp_path_factory.mktemp("run") / "tcdcn")
    workdir.write_json("calibration.json", THRESHOLDS)
    made = Analyzer.from_workdir(workdir.path, max_pixels=100_000)
    made._detector = two_faces
    made.workdir = workdir
    return made


@pytest.fixture(scope="module")
def demo(analyzer):
    """The address of the page of `faceattr-demo`."""
    server = DemoServer()
    thread = threading.Thread(target=server.serve, args=[Service(analyzer, analyzer.workdir)])
    thread.start()
    yield server.url
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    file = tmp_path_factory.mktemp("photos") / "photo.png"
    file.write_bytes(encode(draw_picture(3, 120, 90), ".png"))
    return file


def shown_rows(browser) -> dict[str, tuple[float, str]]:
    """Label -> probability and answer, as the rows say them."""
    rows = {}
    for row in browser.find_all("#rows .row"):
        name, number, said = (
            row.find_element("css selector", part).text for part in (".name", ".number", ".said")
        )
        rows[name] = float(number.removesuffix(" %") if "%" in number else "nan"), said
    return rows


def test_all_faces_are_shown_with_the_answers_of_the_analyzer(chromium, demo, photo, analyzer):
    chromium.open(demo)
    assert chromium.choose(photo).startswith("2 faces in ")
    expected = analyzer.analyze(photo, detect=True)
    assert len(chromium.find_all(".card")) == 2
    for number, card in enumerate(chromium.find_all(".card")):
        card.click()
        rows = shown_rows(chromium)
        for label, answer in expected[number].tasks["attributes"].items():
            probability, said = rows[label]
            assert probability == pytest.approx(100 * answer.probability, abs=0.051)
            assert said == ("yes" if answer.label else "no")
        pose = expected[number].tasks["pose"]
        assert rows[f"pose: {pose.label}"][1] == "most"
    assert {*chromium.requests()} == {demo, f"{demo}analyze"}
    assert chromium.complaints() == []


def test_thresholds_move_for_all_faces_and_return_by_keyboard_too(chromium, demo, photo, analyzer):
    chromium.open(demo)
    chromium.choose(photo)
    chromium.requests()
    selector = "[data-label='attributes/Smiling'] input"
    slider, yes = chromium.find(selector), "return [...document.querySelectorAll('.card span')]"
    faces = analyzer.analyze(photo, detect=True)
    slider.send_keys("\ue011")  # the key Home: threshold 0
    assert shown_rows(chromium)["Smiling"][1] == "yes"
    assert chromium.run(f"{yes}.every(card => card.textContent.includes('Smiling'))")
    slider.send_keys("\ue010")  # End: threshold 1
    assert shown_rows(chromium)["Smiling"][1] == "no"
    assert chromium.run(f"{yes}.every(card => !card.textContent.includes('Smiling'))")
    assert slider.get_attribute("aria-valuetext") == "100.0 %: no"
    chromium.find("#reset").send_keys("\ue007")  # Enter
    said = "yes" if faces[0].tasks["attributes"]["Smiling"].label else "no"
    assert shown_rows(chromium)["Smiling"][1] == said
    assert chromium.run(f'return document.querySelector("{selector}").valueAsNumber') == 0.5
    assert chromium.requests() == [], "answers are judged in the page"


DROP = """
const [name, numbers, kind] = arguments, data = new DataTransfer();
data.items.add(new File([new Uint8Array(numbers)], name, {type: "image/png"}));
const made = kind === "drop" ? new DragEvent(kind, {dataTransfer: data, cancelable: true, bubbles: true})
  : new ClipboardEvent(kind, {clipboardData: data, bubbles: true});
document.querySelector("h1").dispatchEvent(made);
"""


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_a_picture_is_dropped_anywhere_or_pasted(chromium, demo, photo, kind):
    chromium.open(demo)
    chromium.run(DROP, "photo.png", [*photo.read_bytes()], kind)
    assert chromium.answer().startswith("2 faces in ")
    chromium.run(
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer(), bubbles: true}))"
    )
    assert chromium.answer() == "that is no file: save the picture first, then drop it"


def test_a_face_is_chosen_in_the_picture(chromium, demo, photo):
    chromium.open(demo)
    chromium.choose(photo)
    chromium.run(  # a place that is in the smaller box alone
        "const place = canvas.getBoundingClientRect(); canvas.dispatchEvent(new MouseEvent('click', "
        "{clientX: place.left + 4 * place.width / 90, clientY: place.top + 6 * place.height / 120}))"
    )
    assert chromium.text("#face").startswith("Face 2, 12 × 14 pixels")
    pressed = [card.get_attribute("aria-pressed") for card in chromium.find_all(".card")]
    assert pressed == ["false", "true"]


def test_an_explanation_is_drawn(chromium, demo, photo):
    chromium.open(demo)
    chromium.choose(photo)
    chromium.find("#explain").click()
    chromium.wait(lambda page: page.find("#maps").is_displayed() or page.text("#error"))
    assert chromium.text("#error") == ""
    chromium.wait(lambda page: page.run("return document.querySelector('#maps').naturalWidth"))
    assert chromium.find("#maps").get_attribute("alt").startswith("Male: ")
    chromium.find_all(".card")[1].click()
    assert not chromium.find("#maps").is_displayed(), "it is not of the other face"


def test_bad_pictures_are_a_line_in_the_page(chromium, demo, photo, tmp_path):
    chromium.open(demo)
    for name, content, line in (
        ("text.jpg", b"no picture", "not an image of a format that is read"),
        ("large.png", encode(draw_picture(0, 400, 300), ".png"), "more than --max_pixels=100000"),
    ):
        (tmp_path / name).write_bytes(content)
        assert line in chromium.choose(tmp_path / name)
        assert not chromium.find("#result").is_displayed()
    assert chromium.choose(photo).startswith("2 faces")


def test_a_format_that_the_browser_does_not_know_is_shown_too(chromium, demo, tmp_path):
    (tmp_path / "photo.tif").write_bytes(encode(draw_picture(3, 120, 90), ".tiff"))
    chromium.open(demo)
    chromium.requests()
    assert chromium.choose(tmp_path / "photo.tif").startswith("2 faces")
    assert f"{demo}copy" in chromium.requests()


def test_nothing_is_wider_than_a_telephone(telephone, demo, photo):
    telephone.open(demo)
    telephone.choose(photo)
    wide = "return document.documentElement.scrollWidth"
    assert telephone.run(wide) <= 360
    telephone.find("#explain").click()
    telephone.wait(lambda page: page.find("#maps").is_displayed())
    assert telephone.run(wide) <= 360


def test_what_can_be_used_can_be_reached_by_keyboard_and_has_a_name(chromium, demo, photo):
    from selenium.webdriver import ActionChains

    chromium.open(demo)
    chromium.choose(photo)
    nameless = chromium.run(
        "return [...document.querySelectorAll('button, input, select')].filter(one => !(one.textContent"
        " || one.getAttribute('aria-label') || one.labels?.length)).map(one => one.outerHTML)"
    )
    assert nameless == []
    chromium.run("document.querySelector('#file').focus()")
    reached = set()
    for _ in range(25):
        ActionChains(chromium.driver).send_keys("\t").perform()
        reached.add(
            chromium.run(
                "const one = document.activeElement; return one.id || one.className || one.type"
            )
        )
    assert {"camera", "whole", "card", "reset", "range", "label", "explain"} <= reached


def test_the_camera_is_judged_frame_by_frame(demo, tmp_path):
    (tmp_path / "film.mjpeg").write_bytes(encode(draw_picture(3, 120, 160)))
    fake = (
        *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
        f"--use-file-for-fake-video-capture={tmp_path / 'film.mjpeg'}",
    )
    with Browser(options=fake) as browser:
        browser.open(demo)
        browser.find("#camera").click()
        browser.wait(lambda page: page.run("return document.querySelector('#video').videoWidth"))
        browser.requests()
        browser.find("#live").click()
        browser.wait(lambda page: page.requests().count(f"{demo}analyze") or None)
        browser.wait(lambda page: page.requests().count(f"{demo}analyze") or None)
        browser.find("#camera").click()
        assert not browser.find("#filmed").is_displayed()
        assert browser.answer().startswith("2 faces") and browser.complaints() == []


def test_what_a_transformer_looks_at_is_shown(chromium, tmp_path):
    workdir = make_workdir(tmp_path / "none", Crop("none", 60, 48))
    analyzer = Analyzer.from_workdir(workdir.path)
    pixels, corners = draw_picture(3, 120, 96), np.array([[10, 20], [70, 30], [60, 90], [0, 80]])
    analyze = analyzer.analyze

    def turned(*arguments, **options):
        face = analyze(*arguments, **options)
        outline = face.tasks["alignment"].outline
        outline.update(zip(outline, map(tuple, corners.astype(float)), strict=True))
        return face

    analyzer.analyze = turned
    server = DemoServer()
    thread = threading.Thread(target=server.serve, args=[Service(analyzer, workdir)])
    thread.start()
    (tmp_path / "photo.png").write_bytes(encode(pixels, ".png"))
    try:
        chromium.open(server.url)
        assert chromium.find("#whole").is_selected(), "it cannot tell faces apart"
        assert chromium.choose(tmp_path / "photo.png").startswith("1 face in ")
        rgba = chromium.run(
            "const one = document.querySelector('#cutout canvas');"
            "return [...one.getContext('2d').getImageData(0, 0, one.width, one.height).data]"
        )
    finally:
        server.shutdown()
        thread.join()
    found = np.array(rgba, np.uint8).reshape(400, 320, 4)[..., :3]
    target = np.array([[0, 0], [320, 0], [0, 400]], np.float32) - 0.5
    cut = cv2.getAffineTransform(corners[[0, 1, 3]].astype(np.float32), target)
    expected = cv2.warpAffine(pixels, cut, (320, 400))
    assert np.abs(found[8:-8, 8:-8].astype(int) - expected[8:-8, 8:-8]).mean() < 3


# The page that runs the network itself.


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of pages, by the kind of their crop."""
    folder = tmp_path_factory.mktemp("pages")
    runtime = folder / "runtime"
    (runtime / "dist").mkdir(parents=True)
    try:
        version = copy_runtime(None, runtime)
    except UserError as error:
        pytest.skip(str(error))
    for path, name in onnxruntime_web.FILES.items():
        (runtime / name).rename(runtime / path)
    fields = f'{{"name": "{onnxruntime_web.PACKAGE}", "version": "{version}"}}'
    (runtime / "package.json").write_text(fields)
    options = export.RuntimeOptions(("page",), onnxruntime_web=str(runtime))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "ROUNDS", 2)
        for kind in ("none", "align", "box"):
            workdir = make_workdir(folder / "runs" / kind, Crop(kind, 24, 20, margin=0.2))
            export.export_runtimes(workdir.path, folder, kind, options=options)
    return folder


@pytest.fixture(scope="module")
def files(exported):
    """The address under which a plain server gives out the pages."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    handler = functools.partial(Quiet, directory=str(exported))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


JUDGED = """
const {started, judge, pixelsOf} = await import("./page.js"), {network} = await started;
const {image} = await pixelsOf(await (await fetch(given[0])).blob());
return (await judge(network, image, given[1])).face.tasks;
"""


def page_of(files, kind):
    return f"{files}{kind}/1-runtimes/page/"


@ONNX
@NODE
@pytest.mark.parametrize("kind", ["none", "align", "box"])
def test_the_browser_answers_as_the_analyzer_does(chromium, files, exported, kind):
    places = {
        "none": {},
        "align": {"landmarks": [[32, 30], [58, 31], [45, 50], [34, 66], [56, 65]]},
        "box": {"box": [20, 10, 50, 70]},
    }
    chromium.open(page_of(files, kind))
    assert chromium.answer() == "The network is loaded."
    analyzer = Analyzer.from_workdir(exported / "runs" / kind)
    for seed in range(3):
        picture = encode(draw_picture(seed, 120, 90), ".png")
        (exported / kind / "1-runtimes" / "page" / "photo.png").write_bytes(picture)
        found = chromium.run_async(JUDGED, f"photo.png?{seed}", places[kind])
        expected = analyzer.analyze(picture, **places[kind]).to_dict()["tasks"]
        assert found.keys() == expected.keys()
        for label, answer in expected["attributes"].items():
            assert found["attributes"][label]["probability"] == pytest.approx(
                answer["probability"], abs=1e-4
            )
            assert found["attributes"][label]["label"] == answer["label"]
        for name in ("pose", "range", "emotion"):
            assert found[name]["label"] == expected[name]["label"]
            assert found[name]["probabilities"] == pytest.approx(
                expected[name]["probabilities"], abs=1e-4
            )
        assert found["range"]["value"] == pytest.approx(expected["range"]["value"], abs=1e-2)
        assert found["age"]["years"] == pytest.approx(expected["age"]["years"], rel=1e-3, abs=1e-3)
        for name, place in (("landmarks", "nose"), ("alignment", "left_top")):
            ours = found[name]["outline"] if name == "alignment" else found[name]
            theirs = expected[name]["outline"] if name == "alignment" else expected[name]
            assert ours.keys() == theirs.keys()
            assert ours[place] == pytest.approx(theirs[place], rel=1e-3, abs=0.05)


@ONNX
@NODE
def test_it_asks_for_nothing_outside_of_its_folder(chromium, files, photo):
    own = page_of(files, "none")
    chromium.open("about:blank")
    chromium.requests(), chromium.complaints()
    chromium.open(own)
    assert chromium.choose(photo).startswith("Judged in ")
    assert shown_rows(chromium)["Male"][1] in ("yes", "no")
    asked = chromium.requests()
    assert f"{own}model.onnx" in asked and f"{own}ort-wasm-simd-threaded.wasm" in asked
    assert [url for url in asked if not url.startswith((own, f"blob:{files}", "data:"))] == []
    assert chromium.complaints() == []
    blocked = chromium.run_async("await fetch('http://127.0.0.1:9/'); return 'sent'")
    assert "TypeError" in blocked
    assert any("Content Security Policy" in line for line in chromium.complaints())


TAP = """
const [x, y] = arguments;
canvas.scrollIntoView();
const place = canvas.getBoundingClientRect();
const at = {clientX: place.left + x * place.width, clientY: place.top + y * place.height, bubbles: true};
const under = document.elementFromPoint(at.clientX, at.clientY);
for (const kind of ["pointerdown", "pointerup"]) under.dispatchEvent(new PointerEvent(kind, at));
under.dispatchEvent(new MouseEvent("click", at));
"""


@ONNX
@NODE
def test_a_face_is_marked_by_keyboard_and_by_pointer(chromium, files, photo):
    chromium.open(page_of(files, "align"))
    assert chromium.choose(photo) == "Now the left eye" and not chromium.find_all(".card")
    chromium.find(".handle").send_keys("\ue014")  # arrow to the right
    assert chromium.answer().startswith("Judged in ")
    assert chromium.text(".card b") == "The marked face"
    for place in range(5):  # marks that lie where the next one is to go are no hindrance
        chromium.run(TAP, 0.4 + 0.05 * (place % 3), 0.3 + 0.1 * place)
    chromium.wait(lambda page: page.text("#status").startswith("Judged in "))
    places = chromium.run(
        "return [...document.querySelectorAll('.handle')].map(one => [one.style.left, one.style.top])"
    )
    for place, (left, top) in enumerate(places):
        assert float(left.removesuffix("%")) == pytest.approx(40 + 5 * (place % 3), abs=0.5)
        assert float(top.removesuffix("%")) == pytest.approx(30 + 10 * place, abs=0.5)


@ONNX
@NODE
def test_the_page_fits_a_telephone_and_says_what_it_cannot_read(telephone, files, tmp_path, photo):
    telephone.open(page_of(files, "box"))
    (tmp_path / "text.jpg").write_text("no picture")
    assert telephone.choose(tmp_path / "text.jpg") == "not a picture that this browser can show"
    assert telephone.choose(photo) == "Now the left upper corner of the box"
    telephone.find(".handle").send_keys("\ue012")
    assert telephone.answer().startswith("Judged in ")
    assert telephone.run("return document.documentElement.scrollWidth") <= 360
