"""Figures of linear SVMs on what a run's network gives: stages, training size, unseen attributes."""

import numpy as np
import pytest
from untrained_run import make_run

from data_pipelines.errors import UserError
from data_pipelines.records.build import build
from data_pipelines.records.record_set import RecordSet
from data_pipelines.synth import layouts
from data_pipelines.tasks import CELEBA, MTFL_ATTRIBUTES
from faceattr_tf.models.create import feature_network
from faceattr_tf.reports.analysis.fits import Fits, attribute_tasks, mean_with_interval
from faceattr_tf.reports.analysis.stages import IDENTITY_RELATED, stages
from faceattr_tf.reports.analysis.subject import Settings, Subject
from faceattr_tf.reports.analysis.training_size import training_size
from faceattr_tf.reports.analysis.unseen import matched_thresholds, unseen

SETTINGS = Settings(shares=(0.5, 1.0), bootstrap=50, progress=False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, mtfl_records):
    """A run that has learnt one of the three attributes alone."""
    tasks = (MTFL_ATTRIBUTES.select(["Smiling"]),)
    folder = tmp_path_factory.mktemp("fits")
    return make_run(folder / "run", tasks=tasks, records=mtfl_records, features=folder / "features")


@pytest.fixture(scope="module")
def subject(workdir, mtfl_records):
    return Subject(workdir, RecordSet.load(mtfl_records.path), "validation", SETTINGS)


def test_features_are_those_of_the_trained_network_on_the_parts_of_its_run(subject):
    fits = Fits(subject, attribute_tasks(subject)[0], ["shared"])
    (part,) = fits.parts["validation"]["shared"]
    network = feature_network(subject.model, "shared")
    images = np.concatenate([np.asarray(batch["image"]) for batch in subject.batches()])
    expected = network.predict(images, verbose=0)["features"]
    found = part.batch(np.arange(len(part)), np.zeros(len(part), int))["image"]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    (training,) = fits.parts["train"]["shared"]
    assert not set(training.filenames) & set(part.filenames)
    assert len(training) + len(part) == subject.records.splits["train"]


def test_stages_have_means_beside_the_majority_guess(subject):
    finding = stages(subject)
    numbers = finding.numbers
    layers = list(numbers["means"])
    assert layers[-1] == "shared" and len(layers) == 3
    assert numbers["groups"] == {
        "Related to identity": ["Male"],
        "Not related to identity": ["Smiling", "Eyeglasses"],
    }
    for layer in layers:
        mean, low, high = numbers["means"][layer]["All"]["accuracy"]
        each = [row["accuracy"] for row in numbers["labels"][layer].values()]
        assert mean == pytest.approx(np.mean(each)) and low <= mean <= high
    labels = Fits(subject, attribute_tasks(subject)[0], [layers[-1]]).labels
    usual = (labels("train") == 1).sum(axis=0) > (labels("train") == 0).sum(axis=0)
    right = (labels("validation") == usual).sum(axis=0) / (labels("validation") >= 0).sum(axis=0)
    guess = numbers["means"][layers[0]]["All"]["majority_accuracy"]
    assert guess == pytest.approx(right.mean())
    assert "optimistic" in finding.section.about


def test_attributes_related_to_identity_are_celebas():
    assert set(IDENTITY_RELATED) < set(CELEBA.labels)


def test_training_sizes_lie_within_each_other_and_all_is_all(subject):
    sizes = training_size(subject).numbers["sizes"]
    fits = Fits(subject, attribute_tasks(subject)[0], ["shared"])
    count = len(fits.labels("train"))
    assert [one["share"] for one in sizes] == [0.5, 1.0]
    assert sizes[1]["images"] == count and abs(sizes[0]["images"] - count / 2) <= 1
    whole = mean_with_interval(fits.result("shared"), fits.task.labels, 50)
    assert sizes[1]["accuracy"] == pytest.approx(whole["accuracy"])


def test_unseen_attributes_are_those_that_only_the_records_have(subject):
    (numbers,) = unseen(subject).numbers.values()
    assert list(numbers["labels"]) == ["Male", "Eyeglasses"]
    fits = Fits(subject, MTFL_ATTRIBUTES.select(["Male", "Eyeglasses"]), ["shared"])
    outputs, labels = fits.outputs("shared"), fits.labels("train")
    for index, label in enumerate(numbers["labels"]):
        threshold = numbers["thresholds"][label]
        said = 1 / (1 + np.exp(-outputs["train"][:, index].astype(float))) >= threshold
        known = labels[:, index] >= 0
        assert said[known].sum() == (labels[known, index] == 1).sum()
        truth, score = fits.labels("validation")[:, index], outputs["validation"][:, index]
        yes = 1 / (1 + np.exp(-score.astype(float))) >= threshold
        balanced = (yes[truth == 1].mean() + (~yes[truth == 0]).mean()) / 2
        found = numbers["labels"][label]["balanced_accuracy"][0]
        assert found == pytest.approx(balanced, nan_ok=True)


@pytest.fixture(scope="module")
def lfwa_plus(tmp_path_factory):
    """Records of 73 attributes, of which the test images alone know 33; and a run on the 40."""
    folder = tmp_path_factory.mktemp("lfwa_plus")
    tree = layouts.draw("lfwa", folder / "tree", images=80, size=(32, 32), attributes=73)
    records = build("lfwa", tree, folder / "records")
    return make_run(folder / "run", tasks=(CELEBA,), records=records, features=folder), records


def test_attributes_of_test_images_alone_are_fitted_to_half_of_their_people(lfwa_plus):
    workdir, records = lfwa_plus
    further = records.task("lfwa_attributes")
    subject = Subject(workdir, records, "test", SETTINGS)
    finding = unseen(subject)
    (numbers,) = finding.numbers.values()
    assert tuple(numbers["labels"]) == further.labels and len(further.labels) == 33
    assert "as no training image knows these attributes" in finding.section.tables[0].note
    fits = Fits(subject, further, ["shared"])
    parts = [part["shared"][0] for part in (*fits.parts.values(), fits.held)]
    count = records.splits["test"]
    assert sum(map(len, parts)) == count
    assert numbers["images"] == len(parts[1]) == pytest.approx(count / 2, abs=4)
    assert numbers["training_images"] == len(parts[0])
    people = [set(part.identities.tolist()) for part in parts]
    assert sum(map(len, people)) == len(set.union(*people)) == records.people["test"]
    stored = dict(zip(records.filenames("test"), records.identities("test"), strict=True))
    for part in parts:
        names = [name.decode() for name in part.filenames]
        assert [stored[name] for name in names] == part.identities.tolist()


def test_what_the_measured_images_do_not_know_either_is_not_measured(lfwa_plus):
    workdir, records = lfwa_plus
    subject = Subject(workdir, records, "validation", SETTINGS)
    message = "'lfwa_attributes': no label of train images is known; known in: test"
    with pytest.raises(UserError, match=message):
        unseen(subject)


def test_thresholds_match_the_share_of_yes_of_known_labels():
    random = np.random.default_rng(0)
    outputs = random.normal(size=(50, 4))
    labels = random.integers(-1, 2, (50, 4))
    labels[:, 2], labels[:, 3] = 0, -1
    cuts = matched_thresholds(labels, outputs)
    for index in range(2):
        known = labels[:, index] >= 0
        assert (outputs[known, index] >= cuts[index]).sum() == (labels[:, index] == 1).sum()
    assert cuts[2] == np.inf and cuts[3] == 0


def test_a_run_that_knows_all_attributes_has_none_unseen(tmp_path, mtfl_records):
    workdir = make_run(tmp_path / "run", records=mtfl_records)
    subject = Subject(workdir, RecordSet.load(mtfl_records.path), "validation", SETTINGS)
    with pytest.raises(UserError, match="the model was trained on every attribute"):
        unseen(subject)


def test_shares_are_shares(subject, workdir):
    changed = Subject(workdir, subject.records, "validation", Settings(shares=(50.0,)))
    with pytest.raises(UserError, match="share 50: expected above 0 and up to 1"):
        training_size(changed)
