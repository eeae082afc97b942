"""The analysis of a run: figures from known numbers, and the page end to end."""

import json

import keras
import numpy as np
import pytest
from scipy.stats import pearsonr
from untrained_run import make_run

from data_pipelines.errors import UserError
from data_pipelines.records.record_set import RecordSet
from data_pipelines.tasks import MTFL_ATTRIBUTES
from faceattr_tf.commands import analyze as command
from faceattr_tf.models.create import feature_network
from faceattr_tf.models.heads import HEAD_PREFIX
from faceattr_tf.reports.analysis import grouping, neurons, page, regions
from faceattr_tf.reports.analysis.page import analyze
from faceattr_tf.reports.analysis.subject import Settings, Subject

SETTINGS = Settings(images=6, groups=2, batch_size=8, progress=False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, mtfl_records):
    folder = tmp_path_factory.mktemp("analysis")
    return make_run(folder / "run", records=mtfl_records, features=folder / "features")


@pytest.fixture(scope="module")
def subject(workdir, mtfl_records):
    return Subject(workdir, RecordSet.load(mtfl_records.path), "validation", SETTINGS)


@pytest.fixture(scope="module")
def images(subject):
    """All images of the split, as the model sees them."""
    return np.concatenate([np.asarray(batch["image"]) for batch in subject.batches()])


def test_a_sample_is_of_the_split_seeded_and_has_the_labels_of_its_images(subject, images):
    chosen, labels = subject.sample(6)
    rows = [np.flatnonzero((images == one).all(axis=(1, 2, 3))) for one in chosen]
    rows = np.concatenate(rows)
    assert len(set(rows)) == 6 and rows.tolist() == sorted(rows)
    np.testing.assert_array_equal(labels, subject.known[rows])
    assert labels.shape[1] == len(subject.labels) == 8
    assert (labels[:, 3:] == 1).sum() == (labels[:, 3] >= 0).sum()  # one class each
    np.testing.assert_array_equal(subject.sample(6)[0], chosen)
    assert len(subject.sample(10**6)[0]) == len(images) == subject.count


def test_yes_and_no_have_half_each_of_a_region():
    labels = np.array([[1, 1], [0, -1], [0, 1], [0, -1]])
    found = regions._halves(labels)
    np.testing.assert_allclose(found, [[1 / 2, 1 / 2], [1 / 6, 0], [1 / 6, 1 / 2], [1 / 6, 0]])


def test_the_extent_of_a_region_is_what_holds_half():
    heat = np.zeros((10, 10))
    heat[0, 0], heat[3, 3], heat[1] = 5, -9, 0.5
    heat[1, 9] = 0
    assert regions._extent(heat) == 0.01
    assert regions._extent(np.ones((10, 10))) == 0.5
    assert regions._extent(-heat[:3, :1] * 0) is None


def test_regions_average_over_images_and_name_their_stage(subject):
    finding = regions.regions(subject)
    own = finding.numbers["labels"]["Smiling"]
    labels = subject.sample(6)[1][:, 1]
    assert (own["yes"], own["no"]) == ((labels == 1).sum(), (labels == 0).sum())
    assert finding.numbers["images"] == 6 and own["gradients"].ndim == 2
    assert own["largest_loss"] == pytest.approx(own["occlusion"].max())
    assert [len(gallery.examples) for gallery in finding.section.galleries] == [8, 8]


def test_mean_faces_are_those_of_the_images_that_respond_most(subject, images):
    finding = neurons.neurons(subject)
    network = feature_network(subject.model, "shared")
    responses = network.predict(images, verbose=0)["features"]
    np.testing.assert_allclose(subject.responses(subject.layer()), responses, atol=1e-4)
    number = int(responses.std(axis=0).argmax())
    assert next(iter(finding.numbers["neurons"])) == number
    groups = {number: neurons._groups(responses[:, number], 2)}
    assert responses[groups[number]["High"], number].min() == np.sort(responses[:, number])[-2]
    faces, _ = neurons._mean_faces(subject, groups, np.array([0]))
    expected = images[groups[number]["High"]].mean(axis=0)
    np.testing.assert_allclose(faces[number]["High"], expected, atol=0.51)
    assert [gallery.title for gallery in finding.section.galleries][:3] == [
        "High responses",
        "Medium responses",
        "Low responses",
    ]
    own = finding.numbers["neurons"][number]
    index = subject.labels.index(own["label"])
    known = subject.known[:, index] >= 0
    expected = pearsonr(responses[known, number], subject.known[known, index])[0]
    assert own["correlation"] == pytest.approx(expected, abs=1e-4)


def test_attributes_with_the_same_weights_are_of_one_group(subject):
    head = subject.model.get_layer(HEAD_PREFIX + MTFL_ATTRIBUTES.name)
    before = head.get_weights()
    deviation = subject.responses(subject.layer()).std(axis=0)
    kernel = np.zeros_like(before[0])
    one, other = np.argsort(deviation)[-2:]
    kernel[one] = [5, 0, 0.2]  # Male and Eyeglasses, however strongly
    kernel[other] = [0, 3, 0]
    head.set_weights([kernel, before[1]])
    try:
        found = grouping.grouping(subject).numbers
    finally:
        head.set_weights(before)
    assert found["groups"] == {1: ["Male", "Eyeglasses"], 2: ["Smiling"]}
    assert found["agreement_of_seeds"] == 1


def test_groups_are_fewer_than_attributes(workdir, mtfl_records):
    settings = Settings(groups=3, progress=False)
    with pytest.raises(UserError, match="groups 3: expected at least 2 and fewer than the 3"):
        analyze(workdir.path, mtfl_records.path, figures=["grouping"], settings=settings)


def test_a_page_needs_no_other_file_and_says_what_is_left_out(workdir, mtfl_records, tmp_path):
    settings = Settings(
        groups=9, stages=("shared",), shares=(1.0,), images=2, bootstrap=9, progress=False
    )
    contents = analyze(workdir.path, mtfl_records.path, output=tmp_path / "out", settings=settings)
    shown = (tmp_path / "out" / "analysis.html").read_text()
    stored = json.loads((tmp_path / "out" / "analysis.json").read_text())
    assert stored["left_out"]["grouping"].startswith("groups 9: expected")
    assert "Left out: grouping." in shown and "groups 9: expected" in shown
    assert list(contents["figures"]) == ["regions", "neurons", "stages", "training_size"]
    assert stored["left_out"]["unseen"].startswith("the model was trained on every attribute")
    assert 'src="http' not in shown and "<script src" not in shown
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "analysis.html",
        "analysis.json",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"figures": ["region"]}, "there is no figure 'region'; there are: regions, neurons, "),
        ({"split": "holiday"}, "no split 'holiday'"),
        ({"settings": Settings(images=0)}, "images 0: expected at least 1"),
        (
            {"figures": ["regions"], "settings": Settings(map_layer="shared")},
            "layer 'shared' gives no maps in this tcdcn",
        ),
        (
            {"figures": ["neurons"], "settings": Settings(neurons=(10**6,))},
            "neuron 1000000: shared has 0 to ",
        ),
    ],
)
def test_mistakes_are_named(workdir, mtfl_records, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        analyze(workdir.path, mtfl_records.path, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_features_of_several_stages_lie_one_behind_the_other(subject, images):
    first, last = "pool1", subject.layer()
    found = feature_network(subject.model, subject.layer(f"{first}+{last}"))(images[:3])
    maps = keras.Model(subject.model.input, subject.model.get_layer(first).output)(images[:3])
    width = maps.shape[-1]
    found = found["features"].numpy()
    np.testing.assert_allclose(found[:, :width], maps.numpy().mean(axis=(1, 2)), atol=1e-5)
    np.testing.assert_allclose(found[:, width:], subject.responses(last)[:3], atol=1e-5)


def test_features_of_no_stage_are_refused(subject):
    with pytest.raises(UserError, match="layer 'other' ends no stage of this tcdcn: "):
        subject.layer("other")


def test_the_command_passes_its_flags_on(monkeypatch, capsys):
    asked = {}

    def analyze(**options):
        asked.update(options)
        return {"left_out": {"unseen": "why"}, "figures": {"regions": {}}, "folder": "out"}

    monkeypatch.setattr(page, "analyze", analyze)
    flags = ["--workdir=w", "--records=r", "--figures=regions,neurons", "--neurons=3,1"]
    flags += ["--stages=a,b+c", "--shares=0.5,1", "--images=7", "--noprogress"]
    monkeypatch.setattr("sys.argv", ["faceattr-analyze", *flags])
    command.main()
    assert asked == {
        "workdir": "w",
        "records": "r",
        "split": "validation",
        "output": None,
        "figures": ["regions", "neurons"],
        "settings": Settings(
            images=7, neurons=(3, 1), stages=("a", "b+c"), shares=(0.5, 1.0), progress=False
        ),
    }
    said = capsys.readouterr()
    assert said.out == "regions: out/analysis.html\n" and said.err == "left out: unseen: why\n"
