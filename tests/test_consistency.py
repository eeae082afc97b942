"""Impossible pairs of answers: which they are, that none is left, and the same answer everywhere."""

import itertools
import json

import numpy as np
import pytest
from tiny_workdir import draw_picture, encode, make_workdir

import export
from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.batches import Source
from data_pipelines.input.impossible_pairs import (
    EXPECTED,
    count_answers,
    find_pairs,
    implications,
    impossible_pairs,
)
from data_pipelines.records.build import build
from data_pipelines.tasks import Task, ethnicity_tasks
from export.check import comparable
from faceattr_tf import Analyzer
from faceattr_tf.evaluation.consistency import (
    BEYOND,
    consistent_answers,
    measure_consistency,
)
from faceattr_tf.reports.consistency import impossible_tables

HAIR = Task("attributes", "multilabel", ("Bald", "Bangs", "Hat", "Young"))


def pair(**answers):
    return {"answers": answers, "observed": 0, "expected": 20.0}


def pairs_of(task, labels):
    return find_pairs(task, count_answers(np.asarray(labels)))


def holds(task, yes, pairs):
    """Whether answers `[n]` hold an impossible pair, read one by one."""
    said = dict(zip(task.labels, np.asarray(yes).astype(bool).tolist(), strict=True))
    return any(all(said[label] == yes for label, yes in one["answers"].items()) for one in pairs)


def test_pairs_are_those_that_chance_would_have_made_often():
    random = np.random.default_rng(0)
    labels = (random.random((400, 4)) < 0.3).astype(int)
    labels[:, 1] &= ~labels[:, 0]  # nobody is Bald with Bangs
    labels[labels[:, 2] == 1, 3] = 0  # a Hat without Young
    (first, second) = pairs_of(HAIR, labels)
    found = [set(one["answers"].items()) for one in (first, second)]
    assert {("Bald", True), ("Bangs", True)} in found
    assert {("Hat", True), ("Young", True)} in found
    for one in (first, second):
        columns = [labels[:, HAIR.labels.index(label)] for label in one["answers"]]
        assert one["observed"] == 0
        by_chance = np.prod([column.mean() for column in columns]) * 400
        assert one["expected"] == pytest.approx(by_chance, abs=0.05)


@pytest.mark.parametrize(
    ("images", "wrong", "impossible"), [(40, 0, True), (36, 0, False), (400, 3, True), (400, 4, False)]
)  # fmt: skip
def test_at_least_ten_by_chance_and_at_most_three_per_cent_of_them(images, wrong, impossible):
    task = Task("attributes", "multilabel", ("a", "b"))
    labels = np.zeros((images, 2), int)
    labels[: images // 2, 0] = labels[images // 2 :, 1] = 1  # a or b, by chance a quarter both
    labels[:wrong] = 1
    labels[images // 2 : images // 2 + wrong, 1] = 0  # so that the shares of a and b stay
    both = {("a", True), ("b", True)}
    assert (both in [set(one["answers"].items()) for one in pairs_of(task, labels)]) == impossible
    assert images / 4 >= EXPECTED or not impossible


def test_images_count_of_which_both_attributes_are_known():
    labels = np.array([[1, 0, -1, -1]] * 40 + [[0, 1, -1, -1]] * 40 + [[1, -1, 1, -1]] * 900)
    assert [one["answers"] for one in pairs_of(HAIR, labels)] == [
        {"Bald": False, "Bangs": False},
        {"Bald": True, "Bangs": True},
    ]


def test_pairs_are_counted_in_what_a_run_trains_on(tmp_path):
    """Labels are joined by name over record sets, and what validation borrows is left out."""
    picture = encode(draw_picture(0, 12, 12))
    sets = []
    for name, columns, rows in (
        ("one", "Bald,Bangs", [(1, 0), (0, 1)] * 30),
        ("two", "Bangs,Bald", [(0, 1), (1, 0)] * 30),
    ):
        (tmp_path / name).mkdir()
        lines = [f"path,{columns}"]
        for index, row in enumerate(rows):
            (tmp_path / name / f"{index}.jpg").write_bytes(picture)
            lines.append(f"{index}.jpg,{','.join(map(str, row))}")
        (tmp_path / name / "manifest.csv").write_text("\n".join(lines) + "\n")
        tasks = f"attributes:multilabel:{columns}"
        sets.append(build("manifest", tmp_path / name, tmp_path / f"{name}-r", tasks=tasks))
    sources = [Source(one, "train", 0.25, 3) for one in sets]
    found = impossible_pairs((HAIR, *ethnicity_tasks(("White", "Black"))), sources)
    assert list(found) == ["attributes"]  # nobody is told that two groups exclude each other
    assert [one["answers"] for one in found["attributes"]] == [
        {"Bald": False, "Bangs": False},
        {"Bald": True, "Bangs": True},
    ]
    trained = sum(source.count for source in sources)
    assert trained == 90 and found["attributes"][0]["expected"] == pytest.approx(trained / 4, 0.1)


def test_labels_that_leave_no_answer_lose_their_least_sure_pairs(capsys):
    """Of three data sets each knows two attributes: a, b and c are alike, and a is unlike c."""
    task = Task("attributes", "multilabel", ("a", "b", "c"))
    alike, unlike = [(0, 0), (1, 1)] * 40, [(0, 1), (1, 0)] * 400
    labels = [(*row, -1) for row in alike] + [(-1, *row) for row in alike]
    labels += [(one, -1, other) for one, other in unlike]
    found = pairs_of(task, labels)
    assert "leave no answer at all" in capsys.readouterr().out
    assert any(not holds(task, answers, found) for answers in itertools.product((0, 1), repeat=3))
    assert {frozenset(one["answers"]) for one in found[:2]} == {frozenset("ac")}


def reference(task, logits, thresholds, pairs):
    """The rule as it reads, one image at a time: the surest answer first, checked by trying all."""
    limits = np.log(thresholds) - np.log1p(-np.asarray(thresholds))
    possible = [
        answers
        for answers in itertools.product((False, True), repeat=len(task.labels))
        if not holds(task, answers, pairs)
    ]
    rows = []
    for row in logits:
        left = possible
        for place in np.argsort(-np.abs(row - limits), kind="stable"):
            wanted = row[place] >= limits[place]
            left = [one for one in left if one[place] == wanted] or left
        rows.append(left[0])
    return np.array(rows)


@pytest.mark.parametrize("seed", range(4))
def test_no_pair_is_left_whatever_the_pairs_and_their_order(seed):
    random = np.random.default_rng(seed)
    task = Task("attributes", "multilabel", tuple("abcdef"))
    truth = random.integers(0, 2, 6).astype(bool)  # one answer that stays possible
    pairs = []
    while len(pairs) < 9:
        one, other = random.choice(6, 2, replace=False)
        answers = random.integers(0, 2, 2).astype(bool)
        if (answers != truth[[one, other]]).any():
            labels = task.labels[one], task.labels[other]
            pairs.append(pair(**dict(zip(labels, answers.tolist(), strict=True))))
    logits = random.normal(0, 2, (200, 6)).astype(np.float32)
    thresholds = random.uniform(0.05, 0.95, 6)
    probability, yes = map(np.asarray, consistent_answers(task, logits, thresholds, pairs))
    assert not any(holds(task, row, pairs) for row in yes)
    np.testing.assert_array_equal(yes, reference(task, logits, thresholds, pairs))
    _, again = consistent_answers(task, logits, thresholds, pairs[::-1])
    np.testing.assert_array_equal(yes, again)
    # Label and probability say the same, in whatever precision a client compares them.
    np.testing.assert_array_equal(probability >= thresholds, yes)
    np.testing.assert_array_equal(probability >= thresholds.astype(np.float32), yes)
    plain = 1 / (1 + np.exp(-logits))
    kept = (plain >= thresholds) == yes
    np.testing.assert_allclose(probability[kept], plain[kept], rtol=1e-5)
    assert 0 < kept.sum() < kept.size
    across = np.where(yes, thresholds + BEYOND * (1 - thresholds), thresholds * (1 - BEYOND))
    np.testing.assert_allclose(probability[~kept], across[~kept], rtol=1e-5)
    consistent = np.array([not holds(task, row, pairs) for row in plain >= thresholds])
    assert consistent.any() and kept[consistent].all()


def test_of_a_pair_the_answer_nearer_to_its_threshold_gives_way():
    """Bangs is less likely than Bald, but farther beyond its own threshold."""
    logits = np.array([[0.5, 0.2, -1.0, 1.0]])
    thresholds = [0.5, 0.1, 0.5, 0.5]
    _, yes = consistent_answers(HAIR, logits, thresholds, [pair(Bald=True, Bangs=True)])
    assert np.asarray(yes).tolist() == [[False, True, False, True]]


def test_what_gives_way_takes_with_it_what_follows():
    """No Hat is left without a Bald head, nor Bangs without a Hat: Young is surest, so neither is."""
    pairs = [pair(Young=True, Bald=True), pair(Hat=True, Bald=False), pair(Bangs=True, Hat=False)]
    follows = implications(HAIR, pairs)
    assert follows[4 + 3, :4].tolist() == [True, True, True, False]
    _, yes = consistent_answers(HAIR, np.array([[1.0, 2.0, 3.0, 4.0]]), [0.5] * 4, pairs)
    assert np.asarray(yes).tolist() == [[False, False, False, True]]


def test_counts_and_costs_are_those_of_all_labels_and_all_images():
    shared = HAIR.select(["Bangs", "Young"])
    logits = np.array([[3.0, 1.0, -1.0, 1.0], [1.0, 3.0, 1.0, -1.0], [-1.0, -1.0, -1.0, 1.0]])
    labels = np.array([[0, 1], [1, -1], [0, 1]])
    calibration = {"temperature": 2.0, "thresholds": [0.5, 0.5, 0.95, 0.5]}
    pairs = [pair(Bald=True, Bangs=True), pair(Bald=True, Young=False), pair(Hat=True, Young=False)]
    found = measure_consistency(HAIR, 2 * logits, shared, labels, calibration, pairs, True)
    assert (found["pairs"], found["images"]) == (3, 3)
    half, tuned = found["at_half"], found["at_thresholds"]
    assert (half["images"], half["pairs"]) == (2, 4) and (tuned["images"], tuned["pairs"]) == (2, 3)
    assert [(one["pair"], one["images"]) for one in half["worst"]] == [
        ("Bald with Bangs", 2), ("Bald without Young", 1), ("Hat without Young", 1)
    ]  # fmt: skip
    # Bangs of the first image were wrong, and give way to a surer Bald; Young is not touched.
    assert tuned["plain"]["accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert tuned["consistent"]["accuracy"] == 1 and tuned["consistent"]["images"] == 0
    assert tuned["consistent"]["changed"] == 2 and tuned["plain"]["labels"].keys() == {
        "Bangs",
        "Young",
    }
    titles = [table.title for table in impossible_tables({"impossible": found})]
    assert len(titles) == 3
    without = measure_consistency(HAIR, 2 * logits, shared, labels, calibration, pairs)
    assert "consistent" not in without["at_half"]
    assert len(impossible_tables({"impossible": without})) == 2
    assert json.dumps(found)


def test_a_check_compares_what_rounding_cannot_turn():
    description = {
        "tasks": [{"impossible": [pair(a=True, b=True)], "thresholds": [0.5, 0.5],
                   "outputs": {"probability": "p", "label": "l"}}]
    }  # fmt: skip
    expected = {"p": np.array([[0.9, 0.495], [0.9, 0.2]]), "l": np.array([[1, 0], [1, 0]])}
    found = {"p": np.array([[0.495, 0.9], [0.9, 0.2]]), "l": np.array([[0, 1], [1, 0]])}
    assert comparable("p", found, expected, description).tolist() == [[False] * 2, [True] * 2]
    assert comparable("l", found, expected, description).all()
    assert comparable("p", expected, expected, description).tolist() == [[True, False], [True] * 2]


def test_runs_that_know_no_pairs_say_so(tmp_path, capsys):
    old = make_workdir(tmp_path / "old", Crop("none", 12, 10))
    metadata = old.metadata()
    del metadata["impossible"]
    old.write_json("metadata.json", metadata)
    for ask in (
        lambda: Analyzer.from_workdir(old.path, consistent=True),
        lambda: export.export_model(
            old.path, tmp_path / "m", options=export.ExportOptions(consistent=True)
        ),
    ):
        with pytest.raises(UserError, match="does not know which answers exclude .*faceattr-train"):
            ask()
    assert not (tmp_path / "m").exists()
    old.write_json("metadata.json", metadata | {"impossible": {"attributes": []}})
    assert old.calibration(consistent=True)["attributes"]["impossible"] == []
    assert "no pair of yes/no answers is impossible" in capsys.readouterr().err
