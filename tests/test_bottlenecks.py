"""Features of a frozen network: what is kept and found again, and the batches made of it."""

import dataclasses
import itertools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment, RandomCopy
from faceattr_tf.configs import TaskConfig, create_recipe

ROOT = pathlib.Path(__file__).parents[1]
LAST = "activation_17"  # of mobilenet_v3_small
EARLIER = "expanded_conv_5_add"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of several batches in a few dozen images."""
    from faceattr_tf.features import cache, extract

    for module in (cache, extract):
        monkeypatch.setattr(module, "BLOCK", 16)
    monkeypatch.setattr(extract, "BATCH", 8)


def recipe_for(folder, *record_sets):
    recipe = create_recipe("smoke")
    recipe.model.name, recipe.model.width = "mobilenet_v3_small", 1.0
    recipe.data.records = tuple(records.path for records in record_sets)
    recipe.data.crop = Crop(kind="box", height=32, width=32, margin=0.3)
    recipe.data.augment = Augment(flip=True, rotate=15, brightness=0.2)
    recipe.data.bottlenecks.folder = str(folder)
    recipe.data.validation_share = 0.0
    recipe.tasks = ()
    return recipe


class Network:
    """Stands in for the network: of each image its mean colour and two pixels, for every layer."""

    def __init__(self):
        self.asked, self.images = [], 0

    def __call__(self, layers):
        self.asked.append(sorted(layers))

        def features(images):
            self.images += len(images)
            return {layer: len(layer) * described(images) for layer in layers}

        return features


def described(images):
    images = np.asarray(images)
    return np.concatenate([images.mean((1, 2)), images[:, 3, 5], images[:, 20, 9]], axis=1)


def extract(recipe, split="train", layers=None, create=None):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.features.extract import extract

    experiment = Experiment.of(recipe)
    return extract(experiment, split, layers, progress=False, create=create)


def images_of(recipe, split="train", index=0, **options):
    """The examples as the network would see them, in one batch."""
    import tensorflow as tf

    from data_pipelines.input.batches import evaluation_batches
    from faceattr_tf.experiment import Experiment

    experiment = Experiment.of(recipe)
    source = experiment.sources(split)[index]
    batches = evaluation_batches(
        source, experiment.tasks, experiment.view, batch_size=16, **options
    )
    return tf.nest.map_structure(lambda *parts: np.concatenate(parts), *batches.as_numpy_iterator())


def everything(part):
    """The features of all copies, `[N, copies, F]`."""
    rows = np.arange(len(part))
    copies = [part.features.read(rows, np.full_like(rows, copy)) for copy in range(part.copies)]
    return np.stack(copies, axis=1)


def assert_same(one, other):
    np.testing.assert_array_equal(everything(one), everything(other))
    np.testing.assert_array_equal(one.filenames, other.filenames)
    np.testing.assert_array_equal(one.transforms, other.transforms)
    assert one.labels.keys() == other.labels.keys()
    for name, values in one.labels.items():
        np.testing.assert_array_equal(values, other.labels[name])


def never(layers):
    raise AssertionError(f"{layers} should have been found")


def test_features_are_those_of_the_images_in_stored_order(tmp_path, mtfl_records):
    recipe = recipe_for(tmp_path, mtfl_records)
    network = Network()
    (part,) = extract(recipe, create=network)[""]
    images = images_of(recipe)
    assert everything(part).dtype == np.float32
    np.testing.assert_allclose(
        everything(part)[:, 0], len(LAST) * described(images["image"]), rtol=1e-5
    )
    assert part.copies == 1
    np.testing.assert_array_equal(part.filenames, images["filename"])
    np.testing.assert_allclose(part.transforms[:, 0], images["transform"], atol=1e-5)
    assert part.labels.keys() == images["labels"].keys() == {"attributes", "pose", "landmarks"}
    for name, values in images["labels"].items():
        assert part.labels[name].dtype == values.dtype
        np.testing.assert_allclose(part.labels[name][:, 0], values, atol=1e-5)
    assert network.images == mtfl_records.splits["train"]


def test_layers_are_computed_in_one_pass_and_found_again(tmp_path, mtfl_records, capsys):
    recipe = recipe_for(tmp_path, mtfl_records)
    network = Network()
    first = extract(recipe, layers=("", EARLIER), create=network)
    assert network.asked == [sorted([LAST, EARLIER])]
    assert network.images == mtfl_records.splits["train"]
    ratio = everything(first[EARLIER][0]) / everything(first[""][0])
    np.testing.assert_allclose(ratio, len(EARLIER) / len(LAST), rtol=1e-5)
    recipe.model.layer = EARLIER
    again = extract(recipe, create=never)
    assert_same(again[EARLIER][0], first[EARLIER][0])
    count = mtfl_records.splits["train"]
    said = capsys.readouterr().out.splitlines()
    assert f"0 of {count} images found" in said[0] and f"; {count} are computed" in said[0]
    assert said[1] == f"bottlenecks ({EARLIER}): {count} of {count} images found in {tmp_path}"
    keys = [json.loads(file.read_text()) for file in tmp_path.glob("*/key.json")]
    assert sorted(key["layer"] for key in keys) == sorted([LAST, EARLIER])
    assert {key["network"] for key in keys} == {"mobilenet_v3_small"}


def weights_file(folder, content=b"some weights"):
    (folder / "some.weights.h5").write_bytes(content)
    return str(folder / "some.weights.h5")


def changes(folder):
    """Name -> change of a recipe after which its features are others."""

    def change(path, value):
        def apply(recipe):
            *parents, name = path.split(".")
            target = recipe
            for parent in parents:
                target = getattr(target, parent)
            setattr(target, name, value)

        return apply

    crop = Crop(kind="box", height=32, width=32, margin=0.3)
    return {
        "kind": change("data.crop", Crop("nose", height=32, width=32)),
        "margin": change("data.crop", dataclasses.replace(crop, margin=0.4)),
        "size": change("data.crop", dataclasses.replace(crop, height=40)),
        "displacement": change("data.displacement", Augment(shift=0.1)),
        "layer": change("model.layer", EARLIER),
        "network": change("model.name", "resnet50"),
        "pixel_values": change("model.options", (("pixel_values", "unit"),)),
        "precision": change("precision", "mixed_bfloat16"),
        "no file": change("model.weights", ""),
        "imagenet": change("model.weights", "imagenet"),
        "content": lambda recipe: weights_file(folder, b"same size..."),
    }


@pytest.mark.parametrize("name", changes(None))
def test_what_changes_the_features_changes_the_key(tmp_path, mtfl_records, name):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.features.cache import Cache, weights_digest

    def folder():
        layer, weights = recipe.model.layer or LAST, weights_digest(recipe)
        experiment = Experiment.of(recipe)
        source = experiment.sources("train")[0]
        return [Cache.of(experiment, source, layer, copy, weights).folder for copy in (0, 1)]

    recipe = recipe_for(tmp_path, mtfl_records)
    recipe.model.weights = weights_file(tmp_path)
    before = folder()
    assert folder() == before and len(set(before)) == 2
    changes(tmp_path)[name](recipe)
    assert not set(before) & set(folder())


def test_other_records_have_another_key(tmp_path, mtfl_records):
    recipe = recipe_for(tmp_path, mtfl_records)
    extract(recipe, "test", create=Network())
    rebuilt = tmp_path / "rebuilt"
    shutil.copytree(mtfl_records.path, rebuilt)
    metadata = json.loads((rebuilt / "metadata.json").read_text())
    recipe.data.records = (str(rebuilt),)
    extract(recipe, "test", create=never)  # the same faces in another place
    metadata["description"]["fingerprint"] = "another"
    (rebuilt / "metadata.json").write_text(json.dumps(metadata))
    network = Network()
    extract(recipe, "test", create=network)
    assert network.images == mtfl_records.splits["test"]


def test_what_only_chooses_among_features_finds_them(tmp_path, mtfl_records):
    recipe = recipe_for(tmp_path, mtfl_records)
    recipe.model.weights = weights_file(tmp_path)
    whole = extract(recipe, create=Network())[""][0]
    recipe.tasks = (TaskConfig("attributes", labels=("Smiling",)),)
    recipe.model.dropout = 0.5
    recipe.data.batch_size = 7
    recipe.phases = (dataclasses.replace(recipe.phases[0], steps=3, learning_rate=0.5),)
    recipe.data.validation_share = 0.3
    recipe.seed = 9
    recipe.data.augment = Augment(shift=0.1)
    parts = {}
    for split in ("train", "validation"):
        (parts[split],) = extract(recipe, split, create=never)[""]
        assert list(parts[split].labels) == ["attributes"]
        rows = [whole.filenames.tolist().index(name) for name in parts[split].filenames]
        assert rows == sorted(rows)
        np.testing.assert_array_equal(everything(parts[split]), everything(whole)[rows])
        np.testing.assert_array_equal(
            parts[split].labels["attributes"], whole.labels["attributes"][rows][..., 1:2]
        )
    names = [name for part in parts.values() for name in part.filenames]
    assert sorted(names) == sorted(whole.filenames) and len(parts["validation"].filenames) > 10


def test_copies_are_changed_images_with_their_labels(tmp_path, mtfl_records):
    recipe = recipe_for(tmp_path, mtfl_records)
    recipe.model.weights = weights_file(tmp_path)
    plain = extract(recipe, create=Network())[""][0]
    recipe.data.bottlenecks.copies = 2
    network = Network()
    (part,) = extract(recipe, create=network)[""]
    count = mtfl_records.splits["train"]
    assert network.images == 2 * count and everything(part).shape[:2] == (count, 3)
    np.testing.assert_array_equal(everything(part)[:, :1], everything(plain))
    for copy in (1, 2):
        images = images_of(recipe, copy=RandomCopy(recipe.data.augment, recipe.seed, copy))
        expected = len(LAST) * described(images["image"])
        np.testing.assert_allclose(everything(part)[:, copy], expected, rtol=1e-4, atol=0.1)
        np.testing.assert_allclose(part.transforms[:, copy], images["transform"], atol=1e-4)
        for name, values in images["labels"].items():
            np.testing.assert_allclose(part.labels[name][:, copy], values, atol=1e-4)
    assert (part.labels["pose"][:, 1] != part.labels["pose"][:, 2]).any()
    recipe.data.bottlenecks.copies = 1
    one = extract(recipe, create=never)[""][0]
    np.testing.assert_array_equal(everything(one), everything(part)[:, :2])
    assert extract(recipe, "test", create=Network())[""][0].copies == 1
    for change in (
        {"seed": 8},
        {"data": dataclasses.replace(recipe.data, augment=Augment(flip=True))},
    ):
        network = Network()
        extract(dataclasses.replace(recipe, **change), create=network)
        assert network.images == count  # of copy 1 alone


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "absent", "features"])
def test_a_damaged_block_is_computed_again(tmp_path, mtfl_records, damage, capsys):
    recipe = recipe_for(tmp_path, mtfl_records)
    whole = extract(recipe, create=Network())[""][0]
    shards = sorted(tmp_path.glob("*/*.npz"))
    assert len(shards) == -(-mtfl_records.splits["train"] // 16) > 2
    data = bytearray(shards[1].read_bytes())
    if damage == "flipped":
        data[len(data) // 3] ^= 0xFF
    shards[1].write_bytes({"short": data[:-100], "empty": b""}.get(damage, data))
    if damage == "absent":
        shards[1].unlink()
    if damage == "features":
        (kept,) = tmp_path.glob("*/features.npy")
        content = bytearray(kept.read_bytes())
        rows = len(whole) * everything(whole)[0].nbytes
        content[len(content) - rows + rows * 20 // len(whole)] ^= 0x10  # of the 21st image
        kept.write_bytes(content)
    capsys.readouterr()
    network = Network()
    assert_same(extract(recipe, create=network)[""][0], whole)
    assert network.images == 16
    said = capsys.readouterr().out
    assert (f"{shards[1]} is damaged" in said) == (damage != "absent")
    extract(recipe, create=never)


def test_only_whole_batches_are_computed_of_several_gaps(tmp_path, mtfl_records):
    recipe = recipe_for(tmp_path, mtfl_records)
    first = extract(recipe, layers=(LAST, EARLIER), create=Network())
    for layer, index in ((LAST, 0), (EARLIER, 2), (LAST, 2)):
        next(tmp_path.glob(f"*{layer}*/{index:05}-*.npz")).unlink()
    network = Network()
    again = extract(recipe, layers=(LAST, EARLIER), create=network)
    assert network.images == 32
    for layer in (LAST, EARLIER):
        assert_same(again[layer][0], first[layer][0])


SLOW = """
import sys, time
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.features import cache
from faceattr_tf.features import extract as extraction
from tests.test_bottlenecks import Network, extract, recipe_for

cache.BLOCK = extraction.BLOCK = 16
extraction.BATCH = 8

def create(layers):
    features = Network()(layers)
    def slow(images):
        time.sleep(0.3)
        print("batch", flush=True)
        return features(images)
    return slow

extract(recipe_for(sys.argv[2], RecordSet.load(sys.argv[1])), create=create)
"""


def test_a_kill_during_extraction_loses_at_most_one_block(tmp_path, mtfl_records):
    killed = tmp_path / "killed"
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW, mtfl_records.path, str(killed)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = itertools.islice((line for line in run.stdout if line == "batch\n"), 5)
    assert len(list(lines)) == 5
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = len(list(killed.glob("*/[0-9]*.npz")))
    assert kept == 2  # of two batches each; the fifth belonged to the third
    network = Network()
    (end,) = extract(recipe_for(killed, mtfl_records), create=network)[""]
    assert network.images == mtfl_records.splits["train"] - 16 * kept
    whole = extract(recipe_for(tmp_path / "whole", mtfl_records), create=Network())[""][0]
    assert_same(end, whole)


def test_two_processes_share_the_work(tmp_path, mtfl_records):
    """The second waits for the first and finds what that one computed."""
    import threading

    recipe = recipe_for(tmp_path, mtfl_records)
    begun, networks, results = threading.Event(), (Network(), Network()), [None, None]

    def create(layers):
        begun.set()
        time.sleep(1)
        return networks[0](layers)

    def run(index, create):
        results[index] = extract(recipe, create=create)[""][0]

    first = threading.Thread(target=run, args=(0, create))
    first.start()
    assert begun.wait(60)
    run(1, networks[1])
    first.join()
    assert networks[0].images == mtfl_records.splits["train"] and networks[1].images == 0
    assert_same(*results)


def test_a_folder_that_cannot_be_written_is_named_with_the_way_out(
    tmp_path, mtfl_records, monkeypatch
):
    (tmp_path / "file").write_text("no folder")
    recipe = recipe_for(tmp_path / "file", mtfl_records)
    with pytest.raises(UserError, match=r"file: .*--config.data.bottlenecks.folder=DIR$") as caught:
        extract(recipe, create=never)
    assert "\n" not in str(caught.value)
    recipe = recipe_for(tmp_path / "good", mtfl_records)
    extract(recipe, create=Network())
    # What is complete is only read.
    monkeypatch.setattr("faceattr_tf.features.cache.Cache.exclusive", never)
    extract(recipe, create=never)


def test_features_lie_with_the_records_unless_told_otherwise(tmp_path, mtfl_records):
    copied = tmp_path / "records"
    shutil.copytree(mtfl_records.path, copied)
    recipe = recipe_for("", mtfl_records)
    recipe.data.records = (str(copied),)
    extract(recipe, "test", create=Network())
    assert list((copied / "bottlenecks").glob("*/key.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: setattr(r.model, "name", "resnet"), "there is no model 'resnet'; there are"),
        (lambda r: setattr(r.model, "layer", "mixed3"), "'mixed3' ends no stage of mobilenet_v3"),
        (lambda r: setattr(r.model, "weights", "none.h5"), "none.h5: these weights cannot be read"),
        (lambda r: setattr(r.model, "transformer", "tiny"), "transformer 'tiny' needs images"),
        (lambda r: setattr(r.data, "augment", Augment()), "copies 1: .* changes nothing"),
        (lambda r: setattr(r.data.bottlenecks, "copies", -1), "copies -1 must be 0 or more"),
        (lambda r: setattr(r.data, "validation_share", 0.999), "split 'train' holds no examples"),
    ],
)
def test_mistakes_are_named(tmp_path, mtfl_records, change, message):
    recipe = recipe_for(tmp_path, mtfl_records)
    recipe.data.bottlenecks.copies = 1
    change(recipe)
    with pytest.raises(UserError, match=message):
        extract(recipe, create=never)


FOLDER = tempfile.TemporaryDirectory()


def features(count, copies=0, source=0):
    """Features that say source, example and copy, and labels that say the same."""
    from faceattr_tf.features.batches import Features, Stored

    example, copy = np.indices((count, copies + 1))
    said = np.stack([np.full_like(copy, source), example, copy], axis=2)
    files = [pathlib.Path(FOLDER.name) / f"{source}-{count}-{one}.npy" for one in range(copies + 1)]
    for one, file in enumerate(files):
        np.save(file, said[:, one].astype(np.float32))
    return Features(
        features=Stored(tuple((file,) for file in files), np.arange(count)),
        labels={
            "attributes": said.astype(np.int32),
            "pose": (example * 10 + copy).astype(np.int32),
        },
        filenames=np.array([f"{source}-{index:0{source + 2}}".encode() for index in range(count)]),
        identities=np.arange(count) // 2,
        transforms=np.broadcast_to(said[..., None, :], (*copy.shape, 2, 3)).astype(np.float32),
    )


def stream(parts, weights=None, **options):
    from faceattr_tf.features.batches import feature_batches

    options = {"batch_size": 8, "seed": 5} | options
    return feature_batches(parts, weights or [1.0] * len(parts), **options)


def take(batches, count):
    return list(batches.take(count).as_numpy_iterator())


def seen(batches):
    """Source, example and copy of every place, after checking that all fields agree."""
    image = np.concatenate([batch["image"] for batch in batches])[:, :3].astype(int)
    for batch in batches:
        said = batch["image"][:, :3].astype(int)
        np.testing.assert_array_equal(batch["labels"]["attributes"], said)
        np.testing.assert_array_equal(batch["labels"]["pose"], said[:, 1] * 10 + said[:, 2])
        np.testing.assert_array_equal(batch["source"], said[:, 0])
        np.testing.assert_array_equal(batch["transform"][:, 1], said)
        names = [f"{source}-{example:0{source + 2}}".encode() for source, example, _ in said]
        np.testing.assert_array_equal(batch["filename"], names)
        assert batch["source"].dtype == np.int32 and batch["image"].dtype == np.float32
    return image


def test_every_epoch_holds_each_example_once_in_another_order():
    order = seen(take(stream([features(37)]), 14))[:, 1]
    epochs = [order[:37].tolist(), order[37:74].tolist(), order[74:111].tolist()]
    for epoch in epochs:
        assert sorted(epoch) == list(range(37))
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != list(range(37))
    assert seen(take(stream([features(37)], seed=6), 5))[:37, 1].tolist() != epochs[0]


def test_an_example_passes_through_its_copies():
    _, example, copy = seen(take(stream([features(16, copies=2)]), 2 * 6)).T
    assert len(set(copy[:16])) == 3  # not all begin with the same
    for epochs in (slice(0, 48), slice(48, 96)):
        pairs = set(zip(example[epochs], copy[epochs], strict=True))
        assert pairs == set(itertools.product(range(16), range(3)))


def test_a_batch_may_span_many_epochs():
    order = seen(take(stream([features(3)]), 6))[:, 1].reshape(-1, 3)
    np.testing.assert_array_equal(np.sort(order), np.tile(range(3), (16, 1)))


@pytest.mark.parametrize("start", [1, 9, 130, 260])
def test_a_later_start_gives_the_same_batches(start):
    parts = [features(37, copies=1), features(11, copies=1, source=1)]
    whole = seen(take(stream(parts, [0.7, 0.3]), start + 4))
    later = seen(take(stream(parts, [0.7, 0.3], start_step=start), 4))
    np.testing.assert_array_equal(later, whole[8 * start :])


@pytest.mark.parametrize("workers", [4, 3])
def test_workers_take_contiguous_shares_of_the_global_batches(workers):
    parts = [features(37), features(11, source=1)]
    whole = seen(take(stream(parts, start_step=3), 4)).reshape(4, 8, 3)
    shares = [
        seen(take(stream(parts, start_step=3, worker=(index, workers)), 4)).reshape(4, -1, 3)
        for index in range(workers)
    ]
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


def test_sources_are_mixed_exactly_by_weight():
    parts = [features(37), features(11, source=1), features(5, source=2)]
    found = seen(take(stream(parts, [3, 1, 0], batch_size=50), 40))
    for block in (found[:1000], found[1000:]):
        np.testing.assert_array_equal(np.bincount(block[:, 0], minlength=3), [750, 250, 0])
    assert len(set(found[:8, 0])) == 2  # mixed, not one after the other
    for source, count in ((0, 37), (1, 11)):
        examples = found[found[:, 0] == source][:, 1]
        whole = len(examples) // count * count
        epochs = np.sort(examples[:whole].reshape(-1, count))
        np.testing.assert_array_equal(epochs, np.tile(range(count), (len(epochs), 1)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: stream([features(9)], batch_size=3, worker=(0, 4)),
            "batch_size 3 is less .* of 4",
        ),
        (lambda: stream([features(9), features(0)]), "holds no examples"),
        (lambda: stream([features(9)], [-1.0]), "weights .* positive"),
    ],
)
def test_streams_that_cannot_be_are_refused(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_evaluation_is_in_stored_order_and_complete():
    from faceattr_tf.features.batches import EvaluationBatches

    batches = EvaluationBatches(features(37, copies=2), 10)
    assert [len(batch["image"]) for batch in batches] == [10, 10, 10, 7]
    np.testing.assert_array_equal(
        seen(batches), np.stack([np.zeros(37), np.arange(37), np.zeros(37)], axis=1)
    )


def test_labels_of_several_sources_are_joined_by_name(tmp_path, mtfl_records, celeba_records):
    recipe = recipe_for(tmp_path, celeba_records, mtfl_records)
    recipe.tasks = (
        TaskConfig("attributes", labels=("Bald", "Smiling", "Male")),
        TaskConfig("pose"),
        TaskConfig("landmarks"),
    )
    parts = extract(recipe, create=Network())[""]
    assert [len(part) for part in parts] == [
        celeba_records.splits["train"], mtfl_records.splits["train"]
    ]  # fmt: skip
    for index, part in enumerate(parts):
        images = images_of(recipe, index=index)
        assert part.labels.keys() == images["labels"].keys()
        for name, values in images["labels"].items():
            assert part.labels[name].dtype == values.dtype
            np.testing.assert_allclose(part.labels[name][:, 0], values, atol=1e-5)
    assert (parts[0].labels["attributes"] >= 0).all() and (parts[0].labels["pose"] == -1).all()
    assert (parts[1].labels["attributes"][..., 0] == -1).all()
    assert np.isfinite(parts[1].labels["landmarks"]).all()


def test_features_are_what_the_heads_of_the_whole_network_see(tmp_path, mtfl_records):
    """The network itself, of random weights: the top on features answers as the whole on images."""
    import keras

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.features.extract import for_run
    from faceattr_tf.models.create import create_model
    from faceattr_tf.models.heads import BOTTLENECK

    recipe = recipe_for(tmp_path, mtfl_records)
    recipe.data.validation_share = 0.2
    recipe.model.layer = EARLIER
    keras.utils.set_random_seed(recipe.seed)
    whole = create_model(Experiment.of(recipe), "float32")
    seen_by_heads = keras.Model(whole.input, whole.get_layer(BOTTLENECK).output)
    both = extract(recipe, layers=(EARLIER, LAST))
    for split in ("train", "validation"):
        expected = seen_by_heads.predict(images_of(recipe, split)["image"], verbose=0)
        (part,) = for_run(Experiment.of(recipe), progress=False)[split]
        np.testing.assert_allclose(everything(part)[:, 0], expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(
        everything(both[EARLIER][0]), everything(extract(recipe, create=never)[EARLIER][0])
    )
    assert both[LAST][0].features.width == 576 != both[EARLIER][0].features.width
