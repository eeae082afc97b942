"""People as classes and as company: the task of identities, and batches that show people together."""

import dataclasses
import itertools
import json
import re
import shutil

import numpy as np
import pytest
from test_input import STRONG, assert_equal, take
from test_manifest import manifest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment
from data_pipelines.input.batches import (
    Source,
    encoded_batches,
    evaluation_batches,
    named_failures,
    training_batches,
)
from data_pipelines.input.view import View
from data_pipelines.records.build import build
from data_pipelines.records.record_set import METADATA, RecordSet
from data_pipelines.tasks import identity_task
from faceattr_tf.configs.base import TaskConfig
from faceattr_tf.experiment import Experiment

VIEW = View(Crop("none", height=8, width=8))
SHOP = {7: 9, 3: 6, 12: 5, 5: 4, 1: 2, 4: 1, "": 3}
BRANCH = {7: 3, 99: 4}
OTHERS = {7: 4, 8: 4}


def make(folder, people, **options):
    """Records of pictures INDEX.png, whose brightness is 10 + INDEX, of so many images per person."""
    people = [person for person, count in people.items() for _ in range(count)]
    rows = [f"{index}.png,{person}" for index, person in enumerate(people)]
    source = manifest(folder / "data", "\n".join(["path,identity", *rows]), len(people))
    return build("manifest", source, folder / "records", progress=False, **options)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return make(tmp_path_factory.mktemp("shop"), SHOP, numbers="shop")


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    return make(tmp_path_factory.mktemp("branch"), BRANCH, numbers="shop")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return make(tmp_path_factory.mktemp("others"), OTHERS)


def recipe(*records, **data):
    from test_train import tiny

    found = tiny(list(records), tasks=(TaskConfig("identity"),), best_metric="loss")
    found.data = dataclasses.replace(
        found.data, **{"validation_share": 0.25, "batch_size": 8} | data
    )
    return found


def rows_of(people):
    """The person of every picture, by its number."""
    return [person for person, count in people.items() for _ in range(count)]


def test_a_manifest_of_people_needs_no_task(shop, others):
    assert shop.tasks == () and shop.people == {"train": 6}
    assert shop.numbering == "shop" and others.numbering not in ("", "shop")
    assert shop.images_of_people("train") == {
        f"shop/{person}": SHOP[person] for person in (1, 3, 4, 5, 7, 12)
    }


def test_people_of_one_numbering_are_the_same_and_of_another_are_not(shop, branch, others):
    (task,) = Experiment.of(recipe(shop, branch, others, validation_share=0.0)).tasks
    own = others.numbering
    assert task.labels == (
        *("shop/1", "shop/3", "shop/4", "shop/5", "shop/7", "shop/12", "shop/99"),
        *(f"{own}/7", f"{own}/8"),
    )
    assert (task.kind, task.output_size) == ("multiclass", 9)
    sources = [Source(branch), Source(others), Source(shop)]
    batches = training_batches(sources, (task,), VIEW, Augment(), batch_size=45, seed=0)
    known = [rows_of(BRANCH), rows_of(OTHERS), rows_of(SHOP)]
    seen = {}
    for batch in take(batches, 3):
        fields = (batch[name].tolist() for name in ("source", "filename", "identity"))
        for source, name, number, label in zip(
            *fields, batch["labels"]["identity"].tolist(), strict=True
        ):
            person = known[source][int(name.split(b".")[0])]
            numbering = own if source == 1 else "shop"
            if person == "":
                assert number == label == -1
            else:
                assert task.labels[label] == f"{numbering}/{person}"
                seen.setdefault(number, set()).add(label)
    assert len(seen) == 9 and all(len(labels) == 1 for labels in seen.values())


def test_people_outside_of_the_classes_are_unknown(shop, branch):
    task = identity_task(("shop/12", "shop/7", "gone/3"))
    (batch,) = take(evaluation_batches(Source(shop), (task,), VIEW, batch_size=40), 1)
    person = [rows_of(SHOP)[int(name.split(b".")[0])] for name in batch["filename"]]
    expected = [{12: 0, 7: 1}.get(one, -1) for one in person]
    assert batch["labels"]["identity"].tolist() == expected
    (batch,) = take(encoded_batches(Source(branch), (task,), batch_size=40), 1)
    assert sorted(batch["labels"]["identity"].tolist()) == [-1] * 4 + [1] * 3


def test_records_of_before_know_their_numbering(celeba_records, tmp_path):
    """Those of CelebA are numbered officially, whoever built them."""
    assert celeba_records.numbering == "celeba"
    folder = shutil.copytree(celeba_records.path, tmp_path / "old")
    fields = json.loads((folder / METADATA).read_text())
    del fields["description"]["numbering"]
    (folder / METADATA).write_text(json.dumps(fields))
    assert RecordSet.load(folder).numbering == "celeba"


def test_classes_are_the_people_of_training_and_counted_there(shop):
    experiment = Experiment.of(recipe(shop, validation_by_person=False))
    (source,), (held,) = experiment.sources("train"), experiment.sources("validation")
    assert source.count + held.count == 30
    (task,) = experiment.tasks
    names = np.array([f"shop/{number}" for number in shop.identities("train")])
    trained = names[source.select()[1]]
    assert set(task.labels) == set(trained) - {"shop/-1"}
    assert experiment.label_counts()["identity"].tolist() == [
        (trained == label).sum() for label in task.labels
    ]
    assert task.labels[experiment.majority()["identity"][0]] == "shop/7"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "none of the .* validation examples shows anybody .*validation_by_person=False"),
        ({"images_per_person": 3, "validation_by_person": False}, "batch_size 8 can be divided"),
        ({"images_per_person": 1}, "images_per_person 1: expected 0, or at least 2"),
        ({"images_per_person": 4, "micro_batch": 2}, "by which micro_batch 2 can be divided"),
    ],
)
def test_what_cannot_be_is_one_line(shop, change, message):
    from faceattr_tf.training.validation import check_validation

    with pytest.raises(UserError, match=message):
        check_validation(Experiment.of(recipe(shop, **change)))


def test_the_validation_split_of_records_shows_others_so_that_training_lends_its_own(tmp_path):
    table = "path,identity,split\n" + "".join(
        f"{index}.png,{index // 8},{'train' if index < 24 else 'val'}\n" for index in range(32)
    )
    records = build("manifest", manifest(tmp_path / "data", table, 32), tmp_path / "records")
    from faceattr_tf.training.validation import check_validation

    with pytest.raises(UserError, match="none of the 8 validation examples .*of_training=True"):
        check_validation(Experiment.of(recipe(records, validation_by_person=False)))
    rule = {"validation_by_person": False, "validation_of_training": True}
    experiment = Experiment.of(recipe(records, **rule))
    check_validation(experiment)
    (train,), (held,) = experiment.sources("train"), experiment.sources("validation")
    assert (train.count, held.count) == (18, 6) and held.select()[0] == "train"
    np.testing.assert_array_equal(train.select()[1], ~held.select()[1])


def test_records_without_people_have_no_identities(mtfl_records, shop):
    with pytest.raises(UserError, match="task 'identity': 0 people are known in the training"):
        Experiment.of(recipe(mtfl_records))
    asked = dataclasses.replace(recipe(mtfl_records, images_per_person=4), tasks=())
    with pytest.raises(UserError, match="nobody is known in its training images"):
        Experiment.of(asked)
    with pytest.raises(UserError, match="hold no task; expected a recipe that lists some"):
        Experiment.of(dataclasses.replace(recipe(shop), tasks=()))


def test_a_task_that_records_store_under_this_name_is_theirs(tmp_path):
    records = make(tmp_path / "a", OTHERS, tasks="identity:multiclass")
    experiment = Experiment.of(recipe(records, validation_share=0.0))
    assert experiment.tasks == records.tasks and experiment.tasks[0].labels == ("7", "8")
    assert experiment.label_counts()["identity"].tolist() == [4, 4]
    (batch,) = take(evaluation_batches(Source(records), experiment.tasks, VIEW, batch_size=8), 1)
    assert (batch["labels"]["identity"] + 7).tolist() == batch["identity"].tolist()


def test_texts_have_nobodys_numbers(tmp_path):
    with pytest.raises(UserError, match="row 2: person 'ann' is no whole number .*'celeba'"):
        make(tmp_path / "b", {"ann": 2, 3: 2}, numbers="celeba")
    with pytest.raises(UserError, match="'celeba' numbers people, and there are none"):
        source = manifest(tmp_path / "c", "path,ok\n0.png,1", 1)
        build("manifest", source, tmp_path / "d", tasks="ok:multilabel", numbers="celeba")


def together(sources, **options):
    sources = [dataclasses.replace(source, images_per_person=4) for source in sources]
    options = {"batch_size": 8, "seed": 5, "augment": Augment()} | options
    augment = options.pop("augment")
    return training_batches(sources, (identity_task(("shop/7",)),), VIEW, augment, **options)


def test_batches_show_people_together_and_each_image_with_its_own_facts(shop):
    for batch in take(together([Source(shop)]), 20):
        groups = batch["identity"].reshape(-1, 4)
        assert (groups == groups[:, :1]).all() and (groups >= 0).all()
        for name, number, label, image in zip(
            *(batch["filename"], batch["identity"], batch["labels"]["identity"], batch["image"]),
            strict=True,
        ):
            index = int(name.split(b".")[0])
            assert number == rows_of(SHOP)[index] and label == (0 if number == 7 else -1)
            np.testing.assert_allclose(image, 10 + index, atol=1e-3)


def test_a_later_start_gives_the_same_batches_to_the_bit(shop, branch):
    sources = [Source(shop, weight=0.7), Source(branch, weight=0.3)]
    whole = take(together(sources, augment=STRONG), 12)
    assert_equal(take(together(sources, augment=STRONG, start_step=9), 3), whole[9:])


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_take_contiguous_slices_of_the_global_batches(shop, branch, workers):
    sources = [Source(shop), Source(branch)]
    options = {"augment": Augment(flip=True), "start_step": 2}
    whole = take(together(sources, **options), 3)
    slices = [
        take(together(sources, **options, worker=(index, workers)), 3) for index in range(workers)
    ]
    for number, batch in enumerate(whole):
        for name in ("image", "filename", "identity", "source"):
            joined = np.concatenate([part[number][name] for part in slices])
            np.testing.assert_array_equal(joined, batch[name])


def test_validation_is_left_out_of_batches_of_people(shop):
    part = {"validation_share": 0.25, "seed": 3}
    held = evaluation_batches(Source(shop, "validation", **part), (), VIEW, batch_size=40)
    held = {name for batch in take(held, 1) for name in batch["filename"]}
    seen = take(together([Source(shop, **part)]), 30)
    seen = set(itertools.chain(*(batch["filename"].tolist() for batch in seen)))
    assert len(held) == 8 and not held & seen and len(seen) > 15


def test_a_file_that_is_cut_while_it_is_read_is_named(shop, tmp_path):
    folder = shutil.copytree(shop.path, tmp_path / "cut")
    records = RecordSet.load(folder)
    source = Source(records, images_per_person=4)
    batches = together([source])
    (shard,) = folder.glob("*tfrecord*")
    shard.write_bytes(shard.read_bytes()[:-200])
    with pytest.raises(UserError, match="not a whole file of records"):
        list(named_failures(batches.take(40), [source]))


def test_features_follow_the_same_people(shop):
    """Groups of one person, each image through its copies, and the step decides alone."""
    from test_bottlenecks import features

    from faceattr_tf.features.batches import feature_batches

    part = features(30, copies=2)
    part = dataclasses.replace(part, identities=shop.identities("train"))

    def batches(start, count, **options):
        found = feature_batches(
            [part], [1.0], batch_size=8, seed=5, images_per_person=4, start_step=start, **options
        )
        return take(found, count)

    whole = batches(0, 162)  # 324 groups, 12 rounds of 27 known images
    rows = np.concatenate([batch["image"][:, 1:3].astype(int) for batch in whole])
    person = part.identities[rows[:, 0]].reshape(-1, 4)
    assert (person == person[:, :1]).all() and (person >= 0).all()
    _, counts = np.unique(rows, axis=0, return_counts=True)
    assert set(counts.tolist()) == {16} and len(counts) == 27 * 3
    images = [
        batch["filename"].tolist()
        for batch in take(together([Source(shop)], augment=Augment()), 20)
    ]
    shown = [[shop.filenames("train")[int(row)] for row in b["image"][:, 1]] for b in whole[:20]]
    assert [[name.decode() for name in one] for one in images] == shown
    assert_equal(batches(7, 2), whole[7:9])
    halves = [batches(7, 2, worker=(index, 2)) for index in range(2)]
    joined = [np.concatenate([half[step]["image"] for half in halves]) for step in range(2)]
    np.testing.assert_array_equal(joined, [batch["image"] for batch in whole[7:9]])


def test_extracted_features_know_classes_and_tell_numberings_apart(shop, others, tmp_path):
    from test_bottlenecks import Network

    from faceattr_tf.features.extract import extract

    asked = recipe(others, shop, validation_by_person=False)
    asked.data.bottlenecks.folder = str(tmp_path)
    experiment = Experiment.of(asked)
    parts = extract(experiment, "train", create=Network(), progress=False)[""]
    for part, source in zip(parts, experiment.sources("train"), strict=True):
        images = take(evaluation_batches(source, experiment.tasks, VIEW, batch_size=40), 1)[0]
        np.testing.assert_array_equal(part.labels["identity"][:, 0], images["labels"]["identity"])
    assert not set(parts[0].identities) & set(parts[1].identities[parts[1].identities >= 0])
    assert (
        set(parts[0].identities) == {7, 8}
        and min(parts[1].identities[parts[1].identities >= 0]) > 99
    )


def test_a_run_learns_people_and_draws_their_images_together(shop, tmp_path, capsys):
    """Softmax over people and the similarity loss, four images of a person in every batch."""
    from faceattr_tf.training.loop import train_and_evaluate

    asked = recipe(shop, validation_by_person=False, images_per_person=4)
    asked.losses = (("similarity", 0.1),)
    train_and_evaluate(asked, tmp_path / "w", progress=False)
    assert re.search(r"people, \d of whom have fewer, which repeat", capsys.readouterr().out)
    log = [json.loads(row) for row in (tmp_path / "w" / "metrics.jsonl").open()]
    found = [row["train/similarity/loss"] for row in log if "train/loss" in row]
    assert len(found) > 3 and min(found) > 0
    assert any("validation/identity/accuracy" in row for row in log)


def test_an_interrupted_run_goes_on_with_the_same_people(shop):
    import tensorflow as tf

    from faceattr_tf.training.batches import training_stream

    asked = recipe(shop, validation_by_person=False, images_per_person=4)
    asked.data.augment = Augment()
    experiment, strategy = Experiment.of(asked), tf.distribute.get_strategy()
    whole, later = (training_stream(experiment, strategy, step) for step in (3, 8))
    whole, later = list(itertools.islice(whole, 7)), list(itertools.islice(later, 2))
    for one, other in zip(whole[5:], later, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)
