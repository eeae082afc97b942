"""faceattr-train's flags: recipes, overrides, and one line for every mistake."""

import subprocess
import sys

import pytest

from data_pipelines.errors import UserError
from faceattr_tf.commands import train
from faceattr_tf.commands.recipe_flags import help_text
from faceattr_tf.commands.recipe_flags import parse as parse_flags
from faceattr_tf.configs import RECIPES, Recipe, create_recipe


def parse(arguments):
    return parse_flags(arguments, train.define_flags)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_survives_its_config_file(name):
    import json

    recipe = create_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_gives_its_command(name):
    assert f"--config={name} --records=" in RECIPES[name].__doc__


def test_fields_are_overridden_by_flags():
    recipe, values = parse(
        [
            "--config=smoke",
            "--records=a,b",
            "--workdir=w",
            "--config.data.batch_size=7",
            "--config.phases[1].learning_rate=.5",
            "--config.data.crop.kind=align",
            "--config.model.options=(('pooling', 'depthwise'),)",
        ]
    )
    assert recipe.name == "smoke" and values.workdir == "w"
    assert recipe.data.records == ("a", "b")
    assert recipe.data.batch_size == 7
    assert recipe.phases[1].learning_rate == 0.5
    assert recipe.phases[0].learning_rate == create_recipe("smoke").phases[0].learning_rate
    assert recipe.data.crop.kind == "align"
    assert recipe.model.options == (("pooling", "depthwise"),)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=smok"], "there is no recipe 'smok'; there are: .*smoke"),
        (
            ["--config=smoke", "--config.data.batchsize=1"],
            r"no field 'batchsize'; did you mean --config.data.batch_size\?",
        ),
        (["--config=smoke", "--config.data.batch_size=many"], "many"),
        (["--config=smoke", "--config.phases[7].epochs=1"], "phases|index|range"),
        (["--config=smoke", "--wokdir=x"], "wokdir"),
        (["--config=smoke", "stray"], "'stray' is no flag"),
        ([], "--config is missing; there are: .*smoke"),
    ],
)
def test_a_mistake_is_one_line(arguments, words):
    with pytest.raises(UserError, match=words) as error:
        parse(arguments)
    assert "\n" not in str(error.value)


def test_help_names_every_recipe_and_field():
    text = help_text(train.__doc__, train.define_flags)
    assert all(name in text for name in RECIPES)
    assert "--config.phases[0].learning_rate" in text


def test_help_and_mistakes_do_without_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None;"
        "from faceattr_tf.commands.train import run; run()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0 and "resnet_small_mtfl" in shown.stdout
    failed = subprocess.run(
        [sys.executable, "-c", code, "--config=nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith("faceattr-train: error: ")


def test_a_renamed_field_is_named_and_old_recipes_are_read():
    with pytest.raises(UserError, match="field 'average' is called 'ema_decay' now"):
        parse(["--config=smoke", "--config.average=0.5"])
    stored = create_recipe("smoke").to_dict()
    stored["average"], stored["log_every"] = stored.pop("ema_decay"), stored.pop("log_steps")
    stored["phases"][0]["classifier_sees"] = stored["phases"][0].pop("classifier_input")
    assert Recipe.from_dict(stored) == create_recipe("smoke")
