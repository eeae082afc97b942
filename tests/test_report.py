"""The report: tables, plots, galleries and pages from known results."""

import json
import re
import xml.dom.minidom

import numpy as np
import pytest
from scipy import special
from sklearn.calibration import calibration_curve

from data_pipelines.tasks import (
    ALIGNMENT,
    CELEBA,
    CELEBA_ATTRIBUTES,
    LANDMARKS,
    MTFL_ATTRIBUTES,
    POSE,
    Task,
)
from faceattr_tf.evaluation.bootstrap import calibration_intervals, intervals
from faceattr_tf.evaluation.metrics import METRICS, Metric
from faceattr_tf.evaluation.reliability import measure_calibration, reliability
from faceattr_tf.evaluation.results import image_errors, measure
from faceattr_tf.reports import page, plots, summary, tables
from faceattr_tf.reports.galleries import collect_examples
from faceattr_tf.reports.published import published_rows

AGE = Task("age", "regression", ("years",))
COUNT = 60
NASTY = '<script>alert("x")</script>.jpg'
FILENAMES = [NASTY, *(f"{index}.jpg" for index in range(1, COUNT))]


def _result(task):
    random = np.random.default_rng(1)
    if task.kind == "multilabel":
        labels = random.integers(-1, 2, (COUNT, len(task.labels)))
        labels[:, -1] = -1  # a label of which nothing is known
        outputs = labels + random.normal(0, 1, labels.shape)
        options = {"majority": [0] * len(task.labels), "thresholds": (0.4,) * len(task.labels)}
    elif task.kind == "multiclass":
        labels = random.integers(0, len(task.labels), COUNT)
        labels[:4] = -1
        outputs, options = random.normal(0, 1, (COUNT, len(task.labels))), {"majority": [2]}
    else:
        labels = random.uniform(-0.5, 0.5, (COUNT, *task.label_shape)).astype(np.float32)
        outputs = labels + random.normal(0, 0.02, labels.shape)
        labels[:4] = np.nan
        options = {"crop_size": (32, 32)} if task.kind in ("landmarks", "transform") else {}
    result = measure(task, labels, outputs, **options)
    result.numbers["intervals"] = intervals(result, 20)
    if result.thresholds:
        result.numbers["intervals_at_thresholds"] = intervals(result, 20, result.thresholds)
    return result


RESULTS = [_result(task) for task in (MTFL_ATTRIBUTES, POSE, LANDMARKS, AGE, ALIGNMENT)]


def _batches():
    """Images whose brightness is four times their place."""
    for start in range(0, COUNT, 16):
        rows = np.arange(start, min(start + 16, COUNT))
        yield {"image": np.ones((len(rows), 32, 32, 3), np.float32) * rows[:, None, None, None] * 4}


def _contents(**changes):
    return {
        "folder": "f",
        "data": {"name": "mtfl", "title": "MTFL", "path": "/records", "fingerprint": "a",
                 "split": "test", "examples": COUNT},
        "model": {"workdir": "/run", "recipe": "smoke", "network": "resnet_small",
                  "parameters": 12345, "best": {"step": 20}, "crop": {"kind": "none"},
                  "trained_on": [{"name": "mtfl", "path": "/records", "fingerprint": "a"}]},
        "flip": False,
        "ten_crop": 0.0,
        "bootstrap": 20,
        "tasks": {result.task.name: result.numbers for result in RESULTS},
        "not_shared": {"model_only": {"hair": ["long & wavy"]}, "data_only": {}},
        "overlap": {"count": 0, "filenames": [], "checked": ["/records"], "unchecked": []},
        "published": [vars(row) for row in published_rows("mtfl", "test", 1997)],
        **changes,
    }  # fmt: skip


LOG = [
    {"step": 1, "phase": "heads", "train/loss": 2.0, "train/learning_rate": 0.1},
    {"step": 2, "phase": "all", "train/loss": 1.0, "validation/loss": 1.5,
     "validation/attributes/accuracy": 0.6, "validation/attributes/majority_accuracy": 0.5},
]  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    galleries = collect_examples(RESULTS, _batches(), FILENAMES)
    contents = _contents()
    contents["odd"] = np.float32("nan")
    assert page.write_report(folder, contents, RESULTS, galleries, LOG) == folder / "report.html"
    return folder


def test_the_page_is_complete_in_itself(written):
    html = (written / "report.html").read_text()
    links = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert links and all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"https?://|@import|url\(|<link", html)
    for heading in (
        "attributes",
        "pose",
        "landmarks",
        "age",
        "alignment",
        "Training curves",
        "ROC curves",
    ):
        assert heading in html
    assert html.count("data:image/svg+xml") >= 12 and html.count("data:image/jpeg") >= 40
    ids = set(re.findall(r'id="([^"]*)"', html))
    assert {link[1:] for link in links if link[0] == "#"} <= ids


def test_names_from_the_data_cannot_become_markup(written):
    html = (written / "report.html").read_text()
    assert NASTY not in html
    assert "&lt;script&gt;alert" in html and "long &amp; wavy" in html


def test_json_holds_every_figure_and_no_nan(written):
    def refuse(constant):
        raise AssertionError(constant)

    contents = json.loads((written / "report.json").read_text(), parse_constant=refuse)
    assert contents["odd"] is None
    empty = contents["tasks"]["attributes"]["metrics"]["labels"]["Eyeglasses"]
    assert empty["count"] == 0 and empty["accuracy"] is None
    assert len(contents["tasks"]["pose"]["metrics"]["confusion"]) == 5
    assert len(contents["published"]) == 4 + 4 + 8 + 2


def test_markdown_tables_are_rectangular(written):
    text = (written / "report.md").read_text()
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1, block
    for part in ("Mean", "TCDCN, 1e-4, 45 epochs", "not strictly comparable", "Only the model has"):
        assert part in text


def test_writing_again_replaces_the_report_and_leaves_nothing_else(written):
    page.write_report(written, _contents(), RESULTS, {}, [])
    names = sorted(path.name for path in written.iterdir())
    assert names == ["report.html", "report.json", "report.md"]
    assert "Training curves" not in (written / "report.html").read_text()


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.task.kind)
def test_every_plot_is_a_picture(result):
    for plot in page.task_plots(result):
        document = xml.dom.minidom.parseString(plot.svg)
        assert document.documentElement.tagName == "svg"
        assert len(document.getElementsByTagName("path")) > 3, plot.title


@pytest.mark.parametrize(
    "task", [MTFL_ATTRIBUTES, POSE, LANDMARKS, AGE], ids=lambda task: task.kind
)
def test_a_split_without_any_known_label_makes_a_report_without_figures(task, tmp_path):
    labels = np.broadcast_to(task.unknown(), (5, *task.label_shape)).astype(float)
    shape = (5, len(task.labels), 2) if task.kind == "landmarks" else (5, len(task.labels))
    result = measure(task, labels, np.zeros(shape))
    result.numbers["intervals"] = intervals(result, 10)
    assert page.task_plots(result) == []
    galleries = collect_examples([result], [], [""] * 5)
    assert galleries == {task.name: []}
    contents = _contents(tasks={task.name: result.numbers})
    page.write_report(tmp_path, contents, [result], galleries, [])
    assert tables.NONE in (tmp_path / "report.md").read_text()


def test_training_curves_are_drawn_from_a_single_row_too():
    assert plots.training_curves(LOG[1:], best_step=2).lstrip().startswith("<?xml")


def test_reliability_agrees_with_scikit_learn():
    random = np.random.default_rng(2)
    score = random.uniform(0, 1, 500)
    truth = random.uniform(0, 1, 500) < score**2
    share, mean = calibration_curve(truth, score, n_bins=10, strategy="quantile")
    found = reliability(truth, score)
    np.testing.assert_allclose(found["share"], share)
    np.testing.assert_allclose(found["probability"], mean)
    assert found["count"] == [50] * 10
    assert found["error"] == pytest.approx(np.abs(share - mean).mean())


@pytest.mark.parametrize("task", [MTFL_ATTRIBUTES, POSE])
def test_calibration_errors_stand_beside_chance_and_intervals_take_their_bias_off(task):
    random, n = np.random.default_rng(3), len(task.labels)
    logits = random.normal(scale=2, size=(1000, n))
    if task.kind == "multilabel":
        labels = (random.random((1000, n)) < special.expit(logits)).astype(int)
        labels[:100, 0] = -1
    else:
        labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    result = measure(task, labels, 3 * logits, temperature=3.0)
    found, spans = result.numbers["calibration"], calibration_intervals(result, 200)
    assert found == measure_calibration(task, labels, 3 * logits, 3.0)
    # Probabilities that are right show what chance makes of them, and no more.
    assert found["after"]["error"] == pytest.approx(found["after"]["by_chance"], rel=0.5)
    assert found["before"]["error"] > 3 * found["after"]["error"]
    for part in ("before", "after"):
        low, high = spans[part]["error"]
        assert 0 < low < found[part]["error"] < high < found[part]["error"] + 0.05
    assert spans["after"]["labels"].keys() == found["after"]["labels"].keys()


def test_image_errors_are_cross_entropies_over_what_is_known():
    labels = np.array([[1, 0, -1], [-1, -1, -1]])
    outputs = np.array([[2.0, 1.0, 9.0], [0.0, 0.0, 0.0]])
    result = measure(MTFL_ATTRIBUTES, labels, outputs)
    expected = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(1.0))) / 2
    assert result.errors[0] == pytest.approx(expected)
    assert np.isnan(result.errors[1])
    scores = np.array([[0.1, 0.2, 0.3, 0.3, 0.1]])
    np.testing.assert_allclose(image_errors(POSE, np.array([1]), scores, scores), -np.log(0.2))


def test_galleries_show_the_best_the_worst_and_the_surest_mistakes():
    result = RESULTS[0]
    galleries = {
        gallery.title: gallery.examples
        for gallery in collect_examples([result], _batches(), FILENAMES)["attributes"]
    }
    order = np.argsort(result.errors[np.isfinite(result.errors)])
    known = np.flatnonzero(np.isfinite(result.errors))[order]
    assert galleries["Best"][0].filename == FILENAMES[known[0]]
    assert [example.filename for example in galleries["Worst"]] == [
        FILENAMES[index] for index in known[::-1][:12]
    ]
    score, truth = result.scores[:, 0], result.labels[:, 0]
    wrong = np.flatnonzero((truth >= 0) & ((score >= 0.5) != truth))
    surest = wrong[np.abs(score[wrong] - 0.5).argmax()]
    shown = galleries["Surest mistakes: Male"][0]
    assert shown.filename == FILENAMES[surest]
    ((text, right),) = shown.captions
    said, labelled = ("yes", "no") if score[surest] >= 0.5 else ("no", "yes")
    assert text.startswith(f"Male: {said} ") and text.endswith(f"labelled {labelled}") and not right
    assert "Surest mistakes: Eyeglasses" not in galleries  # nothing known, no mistakes


def test_thumbnails_are_the_images_that_they_are_named_after():
    import cv2

    (gallery, *_) = collect_examples([RESULTS[1]], _batches(), FILENAMES)["pose"]
    for example in gallery.examples:
        pixels = cv2.imdecode(np.frombuffer(example.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert abs(pixels.mean() - 4 * FILENAMES.index(example.filename)) < 2
        assert example.size == (32, 32)


def test_landmarks_are_drawn_where_they_are():
    result = RESULTS[2]
    galleries = collect_examples([result], _batches(), FILENAMES)["landmarks"]
    assert [gallery.title for gallery in galleries][::2] == ["Best", "Worst"]
    example = galleries[0].examples[0]
    index = FILENAMES.index(example.filename)
    np.testing.assert_allclose(example.true, (result.labels[index] + 1) / 2, rtol=1e-6)
    np.testing.assert_allclose(example.predicted, (result.outputs[index] + 1) / 2, rtol=1e-6)


def test_transforms_are_shown_beside_what_they_cut_out():
    import cv2

    result = RESULTS[4]
    galleries = collect_examples([result], _batches(), FILENAMES)["alignment"]
    assert [gallery.title for gallery in galleries] == ["From good to bad, evenly", "Worst"]
    worst = galleries[1].examples[0]
    index = np.nanargmax(result.errors)
    assert worst.filename == FILENAMES[index]
    corners = np.array([[-1, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
    np.testing.assert_allclose(worst.true, (corners @ result.labels[index].T + 1) / 2, rtol=1e-5)
    expected = (corners @ result.outputs[index].T + 1) / 2
    np.testing.assert_allclose(worst.predicted, expected, rtol=1e-5)
    assert f"{result.errors[index]:.1f} px" in worst.captions[-1][0]
    aligned = cv2.imdecode(np.frombuffer(worst.aligned, np.uint8), cv2.IMREAD_COLOR)
    assert aligned.shape == (32, 32, 3) and abs(aligned.mean() - 4 * index) < 2


def test_transforms_without_labels_are_shown_without_errors(tmp_path):
    outputs = RESULTS[4].outputs
    result = measure(ALIGNMENT, np.full_like(outputs, np.nan), outputs, crop_size=(32, 32))
    result.numbers["intervals"] = intervals(result, 10)
    (plot,) = page.task_plots(result)
    assert plot.title == "Distribution of the transform"
    (gallery,) = collect_examples([result], _batches(), FILENAMES)["alignment"]
    moved = np.linalg.norm(outputs - [[1, 0, 0], [0, 1, 0]], axis=(1, 2))
    shown = [moved[FILENAMES.index(example.filename)] for example in gallery.examples]
    assert len(shown) == 24 and min(shown) < np.quantile(moved, 0.1) < max(shown)
    assert all(example.aligned and not example.true for example in gallery.examples)
    contents = _contents(tasks={"alignment": result.numbers})
    page.write_report(tmp_path, contents, [result], {"alignment": [gallery]}, [])
    text = (tmp_path / "report.md").read_text()
    assert "no labels" in text and "predicted" in text and "labelled |" not in text
    assert page.headlines(contents) == []


def test_equal_transforms_are_drawn_too():
    outputs = np.tile(np.eye(2, 3), (4, 1, 1))
    result = measure(ALIGNMENT, outputs, outputs, crop_size=(32, 32))
    assert len(page.task_plots(result)) == 2


def test_published_columns_stand_beside_ours_with_their_own_average():
    result = _result(CELEBA)
    published = [vars(row) for row in published_rows("celeba", "test", 1003)]
    wide = tables.task_tables(result.numbers, published)[1]
    assert wide.header == (
        "Attribute", "This model", "Majority guess", "FaceTracer", "PANDA-w", "PANDA-l",
        "LNets+ANet", "Off-the-shelf", "FaceSTN",
    )  # fmt: skip
    rows = {row[0]: row for row in wide.rows}
    assert len(rows) == 41 and rows["Mean"][3:] == ("81", "79", "85", "87", "86.3", "91.1")
    assert rows["Male"][3:] == ("91", "93", "97", "98", tables.NONE, tables.NONE)
    assert "not for these 1,003" in wide.note
    accuracies = [row["accuracy"] for row in result.numbers["metrics"]["labels"].values()]
    mean = np.mean([value for value in accuracies if value is not None])
    assert rows["Mean"][1] == f"{100 * mean:.1f}"


def test_an_average_over_all_attributes_does_not_stand_beside_one_over_a_few():
    published = [vars(row) for row in published_rows("celeba")]
    wide = tables.task_tables(RESULTS[0].numbers, published)[1]
    assert wide.rows[-1][0] == "Mean" and set(wide.rows[-1][3:]) == {tables.NONE}
    assert {row[0] for row in wide.rows} - {"Mean"} <= set(CELEBA_ATTRIBUTES)


def test_what_must_be_known_before_believing_the_figures_is_said():
    assert not [text for text in page.warnings(_contents()) if "no known label" not in text]
    overlap = {"count": 3, "filenames": ["a", "b", "c"], "unchecked": ["old: no such folder"]}
    data = {**_contents()["data"], "split": "validation"}
    said = page.warnings(_contents(overlap=overlap, data=data))
    assert "3 of 60 evaluation images (5.0 %)" in said[0] and "a, b, c" in said[0]
    assert "could not be checked" in said[1] and "old: no such folder" in said[1]
    assert "chosen on this very split" in said[2]
    assert "no known label for Eyeglasses" in said[3]
    contents = _contents()
    name = next(iter(contents["tasks"]))
    contents["tasks"] = {name: {"metrics": {"count": 0}}}
    assert page.warnings(contents)[-1].startswith(f"{name}: every label of this split is unknown")


def test_a_metric_with_a_row_is_in_curves_and_summary_beside_its_guess(monkeypatch):
    numbers = RESULTS[1].numbers
    numbers = {**numbers, "metrics": {**numbers["metrics"], "toy": 0.12345, "luck": 0.5}}
    contents, log = _contents(tasks={"pose": numbers}), [{"step": 1, "validation/pose/toy": 0.1}]
    assert len(summary.summary_table(contents).rows) == 2 + 1  # and the calibration error
    assert "<!-- pose -->" not in plots.training_curves(log)
    monkeypatch.setitem(METRICS, "toy", Metric("toy share", unit="", digits=2))
    monkeypatch.setitem(METRICS, "luck", Metric("by luck", guess_of="toy", digits=0, shown=()))
    row = ("pose", "toy share", "0.12", tables.NONE, "50 by luck, not in per cent")
    assert summary.summary_table(contents).rows[2:-1] == (row,)
    assert "<!-- pose -->" in plots.training_curves(log)


def test_many_classes_leave_single_ones_out_and_say_so(tmp_path):
    people = tuple(f"person {number}" for number in range(150))
    result = _result(Task("people", "multiclass", people))
    contents = _contents(tasks={"people": result.numbers})
    contents["not_shared"]["model_only"] = {"people": list(people)}
    galleries = collect_examples([result], _batches(), FILENAMES)
    page.write_report(tmp_path, contents, [result], galleries, LOG)
    text = (tmp_path / "report.md").read_text()
    assert "; figures and plots of its 150 single classes are left out." in text
    for row in ("accuracy", "balanced accuracy", "top-5 accuracy"):
        assert f"| people | {row} |" in text
    assert "| 3.3 any guess |" in text and text.count("person ") == 10
    assert page.task_plots(result) == [] and tables.task_tables(result.numbers, []) == []
    assert len((tmp_path / "report.json").read_text()) < 20_000


def test_figures_are_written_as_their_metric_says():
    rows = {row[:2]: row[2:] for row in summary.summary_table(_contents()).rows}
    tasks = {result.task.name: result.numbers for result in RESULTS}
    error, unmoved = (
        tasks["alignment"]["metrics"][f"corner_error{end}"] for end in ("", "_identity")
    )
    value, _, beside = rows["alignment", "corner error, in pixels"]
    assert (value, beside) == (f"{error:.2f}", f"{unmoved:.2f} left as it is")
    assert rows["pose", "balanced accuracy"][2] == "20.0 any guess"
    value, span, _ = rows["landmarks", "mean error / eye distance"]
    low, high = (100 * end for end in tasks["landmarks"]["intervals"]["nme"])
    assert span == f"{low:.2f} to {high:.2f}"
    tuned = tasks["attributes"]["metrics_at_thresholds"]["mean"]["balanced_accuracy"]
    words = "mean balanced accuracy at validation thresholds"
    assert rows["attributes", words][0] == f"{100 * tuned:.1f}"
    value = f"{100 * tasks['pose']['metrics']['accuracy']:.1f} %"
    guess = f"majority guess: {100 * tasks['pose']['metrics']['majority_accuracy']:.1f} %"
    assert (value, "accuracy, pose", guess) in page.headlines(_contents())


def test_summary_prints_in_even_columns():
    lines = summary.summary_table(_contents()).text().splitlines()
    assert lines[0].split()[:2] == ["Task", "Measure"]
    assert len(lines) == 1 + (3 + 1) + (2 + 1) + 2 + 1 + 1
    assert len({line.index("  ") for line in lines if line.startswith("attributes")}) == 1
