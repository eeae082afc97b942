"""The exported page in headless Chromium, beside the Keras model: answers, and time of a face.

    python -m benchmarks.browser --workdir=RUN --records=RECORDS --page=models/NAME/1-runtimes/page

The page is given the files of the records, and the same pixels as PNG, which tells what decoding
JPEG makes of the difference; faces lie where the records say. Keras sees the same files through the
pipeline of evaluation. Its time is that of the compiled network for a crop, the browser's that of
crop and network together. It takes the extra `test`, Chromium and its driver.
"""

import argparse
import contextlib
import functools
import http.server
import json
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import encode
from data_pipelines.keras_settings import prepare_keras

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--headless=new", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--no-sandbox", "--disable-dev-shm-usage"),  # containers allow neither
)
CHUNK = 50
"""Faces that the page is asked about at a time."""

JUDGE = """
const [begin, places, done] = arguments;
(async () => {
  const {started, ask, pixelsOf} = await import("./page.js"), {cropImage} = await import("./face_crop.js");
  const {network} = await started, answers = [];
  for (const [i, [box, landmarks]] of places.entries()) {
    const blob = await (await fetch(`picture/${begin + i}`)).blob(), {image} = await pixelsOf(blob);
    const start = performance.now(), {crops} = cropImage(image, network.description.crop, box, landmarks);
    const outputs = await ask(network, crops), time = performance.now() - start;
    answers.push([time, Object.fromEntries(Object.entries(outputs).map(([name, one]) => [name, [...one.data]]))]);
  }
  return answers;
})().then(done, error => done(`${error}`));
"""


def chromium(options=()):
    """A driver of Selenium's for headless Chromium, which logs network and console.

    Args:
        options: of Chromium's command line, besides `OPTIONS`.

    Raises:
        UserError: Selenium, Chromium or its driver is absent.
    """
    try:
        from selenium import webdriver
    except ImportError as error:
        raise UserError("no package selenium; pip install 'faceattr_tf[test]' brings it") from error
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise UserError("no Chromium with its driver (Debian: chromium and chromium-driver)")
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = browser
    for option in (*OPTIONS, *options):
        chosen.add_argument(option)
    chosen.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    return webdriver.Chrome(options=chosen, service=service)


@contextlib.contextmanager
def served(folder: Path, pictures: list[bytes]) -> Iterator[str]:
    """The address under which a folder can be read, and pictures as `picture/N`."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            if not self.path.startswith("/picture/"):
                return super().do_GET()
            content = pictures[int(self.path.rpartition("/")[2])]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def of_browser(driver, folder: Path, pictures, places, description) -> tuple[dict, list[float]]:
    """The page's outputs for pictures, name -> values `[N, ...]`, and milliseconds of each."""
    times, rows = [], []
    with served(folder, pictures) as url:
        driver.get(url)
        driver.set_script_timeout(600)
        for begin in range(0, len(pictures), CHUNK):
            said = driver.execute_async_script(JUDGE, begin, places[begin : begin + CHUNK])
            if isinstance(said, str):
                raise UserError(f"the page failed: {said}")
            times += [time_taken for time_taken, _ in said]
            rows += [outputs for _, outputs in said]
    found = {}
    for name, stated in description["outputs"].items():
        values = np.array([row[name] for row in rows], stated["dtype"])
        found[f"answer/crop/{name}"] = values.reshape(len(rows), *stated["shape"][1:])
    return found, times


def of_keras(model, workdir, pictures, examples, description) -> tuple[dict, float]:
    """What Keras says of the same files, by output, and milliseconds of a crop."""
    import tensorflow as tf

    from data_pipelines.crop.pixels import decode_and_crop
    from export.examples import PAGE, task_answers

    network = tf.function(functools.partial(model, training=False))
    pages = []
    for begin in range(0, len(pictures), PAGE):
        part = slice(begin, begin + PAGE)
        files = pictures[part], examples.box[part], examples.landmarks[part]
        crops = decode_and_crop(*files, workdir.crop)[0]
        itself = np.broadcast_to(np.eye(2, 3, dtype=np.float32), [len(crops), 2, 3])
        pages.append(task_answers(network(crops), itself, workdir, description))
    times = []
    for _ in range(100):
        begin = time.perf_counter()
        network(crops[:1])
        times.append(1000 * (time.perf_counter() - begin))
    joined = {name: np.concatenate([page[name] for page in pages]) for name in pages[0]}
    return joined, statistics.median(times)


def main() -> None:
    """Asks both and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True)
    parser.add_argument("--records", required=True)
    parser.add_argument("--page", required=True, type=Path, help="folder of the exported page")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, help="how many (default: all)")
    flags = parser.parse_args()
    prepare_keras()
    import tensorflow as tf

    from export.check import differences, scores
    from export.examples import examples_of
    from faceattr_tf.reports.tables import Table, percent
    from faceattr_tf.workdir import Workdir

    workdir = Workdir.open(flags.workdir)
    model = workdir.load_model()
    description = json.loads((flags.page / "faceattr.json").read_text())
    examples = examples_of(flags.records, flags.split, workdir.tasks, flags.images)
    places = [
        [None if np.isnan(place).any() else place.tolist() for place in pair]
        for pair in zip(examples.box, examples.landmarks, strict=True)
    ]
    pixels = [encode(tf.io.decode_image(one, 3).numpy()) for one in examples.encoded]
    rows, driver = [], chromium()
    try:
        for title, pictures in (("the files", examples.encoded), ("as PNG", pixels)):
            found, times = of_browser(driver, flags.page, pictures, places, description)
            expected, keras_time = of_keras(model, workdir, pictures, examples, description)
            classes = ("_probability", "_label")
            expected = {name: v for name, v in expected.items() if name.endswith(classes)}
            (judged,) = differences(found, {"crop": expected}, description)
            accuracies = [
                float(np.mean(list(scores(one, examples, description).values())))
                for one in ({f"answer/crop/{name}": v for name, v in expected.items()}, found)
            ]
            rows.append(
                (
                    *(title, f"{len(pictures):,}", f"{judged.largest:.2g}"),
                    f"{judged.changed} of {judged.labels:,}",
                    *(percent(accuracy, 2) for accuracy in accuracies),
                    f"{statistics.median(times):.1f}",
                    f"{statistics.median(times) / keras_time:.2f}",
                )
            )
    finally:
        driver.quit()
    header = (
        *("Pictures", "faces", "largest difference", "labels changed", "balanced accuracy, Keras"),
        *("in the browser", "ms a face there", "of Keras' for a crop"),
    )
    print(Table(header, tuple(rows)).text())


if __name__ == "__main__":
    main()
