"""Who is in which part: nobody in training and validation where people are known."""

import csv
import json
import pathlib

import numpy as np
import pytest

from data_pipelines.errors import UserError
from data_pipelines.records.build import build
from data_pipelines.records.people import choose_images, choose_people, count_people
from data_pipelines.records.record_set import IDENTITIES, METADATA, RecordSet
from data_pipelines.synth.layouts import draw


def test_chosen_people_come_with_all_their_images_and_are_about_the_share():
    identities = np.random.default_rng(0).integers(0, 60, 1000)
    chosen = choose_people(identities, 0.2, seed=3)
    assert not set(identities[chosen]) & set(identities[~chosen])
    assert chosen.mean() == pytest.approx(0.2, abs=0.02)
    np.testing.assert_array_equal(choose_people(identities, 0.2, seed=3), chosen)
    assert (choose_people(identities, 0.2, seed=4) != chosen).any()


def test_unknown_people_are_each_their_own_and_nobody_is_everybody():
    assert choose_people(np.full(10, -1), 0.3, seed=0).sum() == 3
    for share in (0.01, 0.99):
        assert choose_people(np.array([7, 7, 7, 9]), share, seed=0).sum() in (1, 3)
    with pytest.raises(UserError, match="all training images are of one person"):
        choose_people(np.zeros(5, int), 0.2, seed=0)


def test_as_many_images_of_everybody_who_has_more_can_be_set_aside():
    identities = np.random.default_rng(1).permutation(np.repeat([3, 4, 5, -1], [6, 3, 2, 8]))
    chosen = choose_images(identities, 2, seed=3)
    assert [int((identities[chosen] == person).sum()) for person in (3, 4, 5, -1)] == [2, 2, 0, 0]
    np.testing.assert_array_equal(choose_images(identities, 2, seed=3), chosen)
    assert (choose_images(identities, 2, seed=4) != chosen).any()
    with pytest.raises(UserError, match="every person who has more, and nobody has"):
        choose_images(identities, 6, seed=3)


def test_people_in_two_parts_are_counted():
    people, shared = count_people(
        {"train": np.array([1, 1, 2, -1]), "validation": np.array([2, 3]), "test": np.array([-1])}
    )
    assert people == {"train": 2, "validation": 2, "test": 0}
    assert shared == {"train and validation": 1}
    assert count_people({"train": np.array([-1, -1])}) == ({}, {})


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Sixty pictures of six people, one in two splits, without a validation split."""
    folder = tmp_path_factory.mktemp("people")
    table = draw("manifest", folder / "drawn", images=60, seed=0, size=(40, 40)) / "manifest.csv"
    with open(table) as file:
        rows = list(csv.DictReader(file))
    for index, row in enumerate(rows):
        person = index % 6
        row |= {"person": f"p{person}", "split": "test" if person == 5 else "train"}
    rows[5]["split"] = "train"
    with open(table, "w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return build("manifest", table, folder / "records", tasks="age:regression", identity="person")


def test_records_say_how_many_people_they_hold_and_share(records):
    assert records.people == {"train": 6, "test": 1}
    assert records.shared_people == {"test and train": 1}
    assert "the same people: 1 in test and train" in records.summary().splitlines()
    assert len(records.identities("train")) == records.splits["train"] == 51


def test_a_validation_share_is_one_of_people_where_they_are_known(records):
    identities = records.identities("train")
    _, validation = records.select("validation", 0.2, 1, True)
    _, training = records.select("train", 0.2, 1, True)
    np.testing.assert_array_equal(validation, ~training)
    assert not set(identities[validation]) & set(identities[training])
    _, by_image = records.select("validation", 0.2, 1)
    assert set(identities[by_image]) & set(identities[~by_image])


def recipe(records):
    from test_train import tiny

    begun = tiny(records)
    begun.data.validation_share = 0.2
    return begun


def test_a_run_that_was_begun_by_images_goes_on_by_images(records, tmp_path, capsys):
    from faceattr_tf.evaluation.split import validation_part
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.resumption import as_begun, claim
    from faceattr_tf.workdir import Workdir

    workdir = Workdir(tmp_path / "w")
    claim(workdir, Experiment.of(as_begun(recipe(records), workdir)))
    assert validation_part(workdir, records) == (0.2, 0, True, False)
    config = json.loads((workdir.path / "config.json").read_text())
    del config["data"]["validation_by_person"]
    workdir.write_json("config.json", config)
    experiment = Experiment.of(as_begun(recipe(records), workdir))
    claim(workdir, experiment)
    assert "goes on with a validation share of the images" in capsys.readouterr().out
    (source,) = experiment.sources("validation")
    np.testing.assert_array_equal(source.select()[1], records.select("validation", 0.2, 0)[1])
    assert validation_part(workdir, records) == (0.2, 0, False, False)


def test_records_of_before_part_images_and_say_so(records, tmp_path, capsys):
    import shutil

    from faceattr_tf.experiment import Experiment

    folder = pathlib.Path(shutil.copytree(records.path, tmp_path / "old"))
    fields = json.loads((folder / METADATA).read_text())
    del fields["people"], fields["shared_people"]
    (folder / METADATA).write_text(json.dumps(fields))
    old = RecordSet.load(folder)
    assert not Experiment.of(recipe(old)).recipe.data.validation_by_person
    assert "built before people were counted" in capsys.readouterr().out
    assert Experiment.of(recipe(records)).recipe.data.validation_by_person
    (pathlib.Path(shutil.copytree(records.path, tmp_path / "x")) / IDENTITIES).unlink()
    with pytest.raises(UserError, match="identities.json is missing"):
        RecordSet.load(tmp_path / "x").select("train", 0.2, 0, True)
