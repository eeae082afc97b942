import numpy as np
import pytest

from data_pipelines.tasks import LANDMARKS, Task
from faceattr_tf.prediction.face import Attribute, Choice, Graded
from faceattr_tf.prediction.smoothing import Smoother

YES = Task("attributes", "multilabel", ("Male", "Smiling"))
POSE = Task("pose", "multiclass", ("left", "right"))
AGE = Task("age", "regression", ("years",))
RANGE = Task("range", "multiclass", ("young", "old"), values=(10.0, 60.0))
THRESHOLDS = {"attributes": {"thresholds": [0.5, 0.9]}}


def said(male, smiling=0.0):
    return {
        "attributes": {"Male": Attribute(male, male >= 0.5), "Smiling": Attribute(smiling, False)}
    }


def test_probabilities_are_weighted_by_half_lives():
    smoother, given = Smoother((YES,), {}, 2.0), [0.2, 0.9, 0.4]
    times = [0.0, 0.5, 3.0]
    for count in range(1, 4):
        found = smoother(times[count - 1], said(given[count - 1]))["attributes"]["Male"]
        weights = 0.5 ** ((times[count - 1] - np.array(times[:count])) / 2.0)
        assert found.probability == pytest.approx(np.average(given[:count], weights=weights))


def test_labels_do_not_flicker_around_their_thresholds():
    rng, single, smooth = np.random.default_rng(0), [], []
    smoother = Smoother((YES,), THRESHOLDS, 1.0)
    for frame in range(500):
        male, smiling = rng.normal([0.5, 0.9], 0.05).clip(0, 1)
        one = said(male, smiling)
        found = smoother(frame / 25, one)["attributes"]
        single.append((male >= 0.5, smiling >= 0.9))
        smooth.append([found[name].label for name in ("Male", "Smiling")])
    changes = [np.abs(np.diff(np.array(rows, int), axis=0)).sum() for rows in (single, smooth)]
    assert changes[0] > 300 and changes[1] == 0


def test_what_truly_changes_is_said_within_seconds():
    smoother = Smoother((YES,), THRESHOLDS, 1.0)
    labels = [
        smoother(frame / 10, said(0.1 if frame < 50 else 0.9))["attributes"]["Male"].label
        for frame in range(100)
    ]
    (changed,) = np.flatnonzero(np.diff(np.array(labels, int)))
    assert 50 < changed < 75 and labels[-1]


def test_classes_give_way_to_a_clear_lead_only():
    smoother = Smoother((POSE, RANGE), {}, 1.0)
    for frame, left in enumerate([0.6, 0.5, 0.44, 0.52, 0.45] * 5):
        shares = {"left": left, "right": 1 - left}
        graded = Graded("young", {"young": left, "old": 1 - left}, 0.0)
        found = smoother(frame / 10, {"pose": Choice("left", shares), "range": graded})
        assert found["pose"].label == "left"
        mean = found["range"].probabilities["young"]
        assert found["range"].value == pytest.approx(10 * mean + 60 * (1 - mean))
    for frame in range(25, 60):
        found = smoother(frame / 10, {"pose": Choice("right", {"left": 0.1, "right": 0.9})})
    assert found["pose"].label == "right"


def test_values_are_averaged_points_are_of_their_frame_and_nothing_is_smoothed_on_demand():
    smoother = Smoother((AGE, LANDMARKS), {}, 1.0)
    smoother(0.0, {"age": {"years": 20.0}, "landmarks": {"nose": (1.0, 2.0)}})
    found = smoother(0.0, {"age": {"years": 30.0}, "landmarks": {"nose": (3.0, 4.0)}})
    assert found == {"age": {"years": 25.0}, "landmarks": {"nose": (3.0, 4.0)}}
    single = Smoother((YES,), {}, 0.0)
    assert [single(0.0, said(male)) for male in (0.1, 0.9)] == [said(0.1), said(0.9)]
