"""Networks fused by channel, groups of attributes on branches, and the weights that both begin with."""

import dataclasses
import json

import keras
import numpy as np
import pytest

from data_pipelines.attribute_groups import GROUPS, check_groups, read_groups
from data_pipelines.errors import UserError
from data_pipelines.tasks import CELEBA, CELEBA_ATTRIBUTES, POSE
from faceattr_tf.configs.base import Model
from faceattr_tf.models import build_model
from faceattr_tf.models.create import create_network, load_pretrained

SIZE = (32, 32, 3)
SMALL = (("network_options", (("width", 0.05),)),)
BRANCHES = tuple(("fused", *(f"attributes/{name}" for name in of)) for of in GROUPS.values())


def test_the_groups_of_table_i_hold_every_attribute_once():
    check_groups(GROUPS, CELEBA_ATTRIBUTES, "Table I")
    assert [len(of) for of in GROUPS.values()] == [10, 5, 1, 2, 4, 6, 2, 2, 8]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "expected a JSON object of group"),
        ("{", "expected a JSON object of group"),
        ('{"a": ["x"], "b": ["y", "x"]}', "'x' is in 'a' and in 'b'"),
        ('{"a": ["x", "z"], "b": ["y"]}', "'z' of group 'a' is none of the attributes"),
        ('{"a": ["x"]}', "'y' is in no group"),
        ('{"a": ["x", "y"], "b": []}', "expected a JSON object of group"),
    ],
)
def test_a_file_of_groups_is_checked(tmp_path, text, message):
    (tmp_path / "groups.json").write_text(text)
    with pytest.raises(UserError, match=f"groups.json: {message}"):
        read_groups(tmp_path / "groups.json", ("x", "y"))
    with pytest.raises(UserError, match="absent.json: No such file"):
        read_groups(tmp_path / "absent.json", ("x",))


def test_the_single_network_has_the_sizes_of_the_text():
    model = build_model("face_alexnet", (POSE,), (224, 224, 3))
    shapes = {name: tuple(stage.shape[1:]) for name, stage in model.stages.items()}
    assert shapes["conv3"] == (14, 14, 384) and shapes["conv5"] == (14, 14, 256)
    assert shapes["pool5"] == (7, 7, 256) and shapes["fc7"] == (4096,)


def test_maps_stand_side_by_side_and_groups_apart():
    """A group's answer depends on all three networks, and on no layer of another group."""
    model = build_model("fusion", (CELEBA,), SIZE, branches=BRANCHES, width=0.1, **dict(SMALL))
    names = [layer.name for layer in model.layers]
    trunks = ("identity", "age", "race")
    assert all(f"{trunk}_conv5_filters" in names for trunk in trunks)
    assert (
        model.get_layer("fused").output.shape[-1]
        == 3 * model.get_layer("age_conv5").output.shape[-1]
    )
    for layer in ("conv_filters", "fc", "head_attributes"):
        assert (
            len([name for name in names if name.startswith("branch_") and name.endswith(layer)])
            == 9
        )
    images = np.random.default_rng(0).uniform(0, 255, (2, *SIZE)).astype(np.float32)
    before = model(images)["attributes"].numpy()
    kernel = model.get_layer("branch_attributes_Bald_fc").kernel
    kernel.assign(kernel * 2 + 0.1)
    moved = np.abs(model(images)["attributes"].numpy() - before).max(axis=0) > 0
    hair = [name in GROUPS["hair"] for name in CELEBA_ATTRIBUTES]
    assert moved.tolist() == hair
    for trunk in trunks:
        before = model(images)["attributes"].numpy()
        kernel = model.get_layer(f"{trunk}_conv1_filters").kernel
        kernel.assign(kernel * 0.5 + 0.1)
        assert (np.abs(model(images)["attributes"].numpy() - before).max(axis=0) > 0).all()


def test_every_network_gets_its_own_weights(tmp_path, capsys):
    single = build_model("face_alexnet", (POSE,), SIZE, width=0.05)
    files = []
    for index in range(2):
        for variable in single.weights:
            variable.assign(np.random.default_rng(index).uniform(size=variable.shape))
        files.append(str(tmp_path / f"{index}.keras"))
        single.save(files[-1])
    config = Model("fusion", width=0.1, options=SMALL, branches=BRANCHES)
    config = dataclasses.replace(config, trunks=(("a", files[0]), ("b", files[1]), ("c", "")))
    keras.utils.set_random_seed(3)
    model = create_network(config, (CELEBA,), SIZE)
    fresh = model.get_layer("c_conv3_filters").kernel.numpy()
    load_pretrained(model, dataclasses.replace(config, branches=()))
    for name, file in (("a", files[0]), ("b", files[1])):
        given = keras.saving.load_model(file)
        for layer in ("conv1_filters", "norm2", "conv5_filters", "norm5"):
            pairs = zip(
                model.get_layer(f"{name}_{layer}").get_weights(),
                given.get_layer(layer).get_weights(),
                strict=True,
            )
            assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)
    np.testing.assert_array_equal(model.get_layer("c_conv3_filters").kernel, fresh)
    assert "c: new weights" in capsys.readouterr().out
    with pytest.raises(UserError, match="both name weights"):
        load_pretrained(model, dataclasses.replace(config, weights=files[0]))
    other = dataclasses.replace(config, options=(("network_options", (("width", 0.1),)),))
    with pytest.raises(UserError, match="0.keras: holds no weights of this network"):
        load_pretrained(create_network(other, (CELEBA,), SIZE), other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trunks": ()}, "expected names that differ, at least one"),
        ({"trunks": ("a", "a")}, "expected names that differ"),
        ({"network": "alexnet"}, "there is no network 'alexnet'; there are: anet"),
        ({"stage": "fc7"}, "stage 'fc7' gives no maps of face_alexnet: pool1"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        build_model("fusion", (CELEBA,), SIZE, **{**dict(SMALL), **options})


def test_a_recipe_names_groups_by_a_file_and_trunks_by_paths(celeba_records, tmp_path, monkeypatch):
    """Groups become branches, paths absolute; a run of them trains, and is continued."""
    from test_train import tiny, train

    from faceattr_tf.experiment import Experiment

    monkeypatch.chdir(tmp_path)
    (tmp_path / "groups.json").write_text(json.dumps(GROUPS))
    build_model("face_alexnet", (POSE,), SIZE, width=0.05).save(tmp_path / "age.keras")
    trunks = (("age", "age.keras"), ("race", ""))
    recipe = tiny(celeba_records)
    recipe.model = Model("fusion", width=0.1, options=SMALL, trunks=trunks)
    recipe.model.branches = (("fused", "@groups.json"),)
    recipe.phases = (dataclasses.replace(recipe.phases[1], epochs=0.0, steps=2),)
    found = Experiment.of(recipe).recipe.model
    assert found.branches == BRANCHES
    assert found.trunks == (("age", str(tmp_path / "age.keras")), ("race", ""))
    train(recipe, tmp_path / "w")
    train(recipe, tmp_path / "w")
    with pytest.raises(UserError, match="belongs to another run: config.model.trunks"):
        train(dataclasses.replace(recipe, model=dataclasses.replace(
            recipe.model, trunks=(("age", ""), ("race", "")))), tmp_path / "w")  # fmt: skip
