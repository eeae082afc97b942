"""What training a pretrained network asks of the step: freezing, decay, micro-batches, more."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from faceattr_tf.configs import TaskConfig, create_recipe
from faceattr_tf.configs.base import Data, Model, Phase, Recipe

TASKS = (TaskConfig("attributes"), TaskConfig("pose", weight=0.5))


def plain(records, **phase) -> Recipe:
    """A network without batch normalisation and dropout under plain gradient descent."""
    phase = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 0.1, **phase}
    return Recipe(
        data=Data(
            records=(records.path,),
            crop=Crop(kind="box", height=48, width=48, margin=0.3),
            batch_size=12,
            validation_share=0.2,
        ),
        tasks=TASKS,
        model=Model("tcdcn", width=0.5),
        phases=(Phase(steps=4, **phase),),
    )


def deep(records, **phase) -> Recipe:
    """A network of several stages with batch normalisation, of which a step is compiled soon."""
    recipe = plain(records, **phase)
    recipe.model = Model("resnet_small", width=0.25)
    return recipe


def run_steps(recipe: Recipe, steps: int = 1, prepare=None):
    """The state before and after some steps of the first phase: the model, and path -> values."""
    import tensorflow as tf

    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    experiment = Experiment.of(recipe)
    strategy = tf.distribute.get_strategy()
    state = TrainingState(experiment, strategy)
    before = {weight.path: weight.numpy() for weight in state.model.weights}
    batches = training_stream(experiment, strategy, 0)
    if prepare:
        prepare(state)
    step = create_train_step(state, experiment, 0)
    for _ in range(steps):
        step(next(batches))
    return state, before, {weight.path: weight.numpy() for weight in state.model.weights}


@pytest.mark.parametrize("clip_norm", [0.0, 0.05])
def test_micro_batches_equal_the_whole_batch(mtfl_records, clip_norm):
    recipe = plain(mtfl_records, momentum=0.9, l2=0.01, clip_norm=clip_norm)
    state, before, whole = run_steps(recipe, steps=3)
    recipe.data.micro_batch = 4
    parts_state, _, parts = run_steps(recipe, steps=3)
    for path, value in whole.items():
        assert not np.array_equal(value, before[path]), path
        np.testing.assert_allclose(parts[path], value, rtol=1e-4, atol=1e-6, err_msg=path)
    np.testing.assert_allclose(parts_state.logged.numpy(), state.logged.numpy(), rtol=1e-5)


def test_micro_batches_leave_alone_what_a_phase_does_not_learn(mtfl_records):
    recipe = plain(mtfl_records, optimizer="adamw", weight_decay=0.5)
    recipe.phases[0].task_weights = (("pose", 0.0),)
    recipe.data.micro_batch = 6
    _, before, after = run_steps(recipe)
    for path, value in after.items():
        assert np.array_equal(value, before[path]) == path.startswith("head_pose"), path


def test_micro_batches_have_to_divide_the_batch(mtfl_records):
    recipe = plain(mtfl_records)
    recipe.data.micro_batch = 5
    with pytest.raises(UserError, match="micro_batch 5 does not divide the 12 examples"):
        run_steps(recipe)


def test_losses_of_the_models_own_count_once_for_the_whole_batch(mtfl_records, monkeypatch):
    """In three parts; and of two replicas the one that runs here adds half."""
    import keras

    recipe = plain(mtfl_records)
    recipe.data.micro_batch = 4
    _, before, without = run_steps(recipe)

    def regularize(state):
        for variable in state.model.trainable_variables:
            variable.regularizer = keras.regularizers.L2(0.5)
        monkeypatch.setattr(type(state.strategy), "num_replicas_in_sync", 2)

    _, _, found = run_steps(recipe, prepare=regularize)
    for path, value in without.items():
        expected = value - 0.1 * 2 * 0.5 * before[path] / 2
        np.testing.assert_allclose(found[path], expected, rtol=1e-4, atol=1e-6, err_msg=path)


def test_l2_adds_its_share_of_every_kernel_to_the_gradient(mtfl_records):
    _, before, without = run_steps(plain(mtfl_records))
    _, _, with_decay = run_steps(plain(mtfl_records, l2=0.5))
    for path, value in without.items():
        expected = value - (0.1 * 0.5 * before[path] if path.endswith("kernel") else 0)
        np.testing.assert_allclose(with_decay[path], expected, rtol=1e-4, atol=1e-6, err_msg=path)


@pytest.fixture(scope="module")
def full_step(mtfl_records):
    """What `run_steps` gives of the deep network, every layer of which trains."""
    return run_steps(deep(mtfl_records))


def test_the_rate_falls_from_stage_to_stage(mtfl_records, full_step):
    from faceattr_tf.models.stages import stages_of

    state, before, full = full_step
    _, _, slowed = run_steps(deep(mtfl_records, layer_decay=0.5))
    stages = stages_of(state.model)
    top = max(stages.values())
    seen = set()
    for layer in state.model.layers:
        for weight in layer.trainable_weights:
            stage = stages[layer.name]
            change = (full[weight.path] - before[weight.path]) * 0.5 ** (top - stage)
            limit = 1e-5 * np.abs(before[weight.path]).max() + 1e-7
            np.testing.assert_allclose(
                slowed[weight.path] - before[weight.path], change, rtol=1e-3, atol=limit
            )
            seen.add(stage)
    assert seen == {*range(5), top} and top > 5


def test_frozen_normalisation_moves_no_statistics(mtfl_records, full_step):
    _, before, after = run_steps(deep(mtfl_records, trainable="^head_"), steps=2)
    moved = {path for path in after if not np.array_equal(after[path], before[path])}
    assert moved and all(path.startswith("head_") for path in moved)

    _, before, after = full_step
    statistics = [path for path in after if "moving_" in path]
    assert statistics
    assert all(not np.array_equal(after[path], before[path]) for path in statistics)


@pytest.mark.slow
def test_the_auxiliary_classifier_trains_and_is_gone_afterwards(
    tmp_path, mtfl_records, monkeypatch
):
    import faceattr_tf.training.loop as training
    from faceattr_tf.workdir import Workdir

    recipe = plain(mtfl_records, trainable="^(head|aux)_")
    recipe.data.crop = Crop(kind="box", height=75, width=75, margin=0.3)
    recipe.model = Model("inception_v3", auxiliary_weight=0.4)
    recipe.phases = (dataclasses.replace(recipe.phases[0], steps=1),)
    states = []

    class Watched(training.TrainingState):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            states.append((self, {weight.path: weight.numpy() for weight in self.model.weights}))

    monkeypatch.setattr(training, "TrainingState", Watched)
    training.train_and_evaluate(recipe, tmp_path / "w", progress=False)
    ((state, before),) = states
    moved = {w.path for w in state.model.weights if not np.array_equal(w.numpy(), before[w.path])}
    auxiliary = {path for path in before if path.startswith("aux_")}
    assert auxiliary and auxiliary < moved
    assert all(path.startswith(("aux_", "head_")) for path in moved)
    assert set(state.model.output_names) > set(state.evaluated_model.output_names)
    model = Workdir.open(tmp_path / "w").load_model()
    assert sorted(model.output) == ["attributes", "pose"]
    assert not [layer.name for layer in model.layers if layer.name.startswith("aux_")]


def test_bottlenecks_train_the_top_of_the_whole_network(tmp_path, mtfl_records, capsys):
    from data_pipelines.input.batches import Source, evaluation_batches
    from faceattr_tf.evaluation.inference import predict_outputs
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.features.batches import EvaluationBatches
    from faceattr_tf.features.extract import for_run
    from faceattr_tf.training.loop import train_and_evaluate
    from faceattr_tf.workdir import TOP, Workdir

    recipe = deep(mtfl_records, optimizer="adamw", learning_rate=1e-2)
    recipe.data.bottlenecks.use = True
    recipe.data.bottlenecks.folder = str(tmp_path / "kept")
    recipe.evaluate_steps = 2
    best = train_and_evaluate(recipe, tmp_path / "w", progress=False)
    workdir = Workdir.open(tmp_path / "w")
    model = workdir.load_model()
    assert model.input_shape == (None, 48, 48, 3)
    experiment = Experiment.of(recipe)
    source = Source(mtfl_records, "validation", 0.2)
    images = evaluation_batches(source, experiment.tasks, experiment.view, batch_size=16)
    by_images = predict_outputs(model, images, tasks=experiment.tasks)
    kept = for_run(experiment)["validation"][0]
    by_features = predict_outputs(
        workdir.load_model(TOP),
        EvaluationBatches(kept, 16),
        tasks=experiment.tasks,
    )
    assert by_images[3] == by_features[3]
    for name, labels in by_images[1].items():
        np.testing.assert_array_equal(by_features[1][name], labels)
        np.testing.assert_allclose(by_features[0][name], by_images[0][name], atol=1e-4)
    steps = [row["step"] for row in workdir.metrics_log() if "validation/loss" in row]
    assert steps == [2, 4] and best["step"] in steps

    capsys.readouterr()
    again = train_and_evaluate(recipe, tmp_path / "v", progress=False)
    assert again == pytest.approx(best)


def on_bottlenecks(records, folder, **phase) -> Recipe:
    """New layers first on bottlenecks, then every layer on images."""
    recipe = deep(records, trainable="^(head|aux|branch)_", bottlenecks=True, **phase)
    recipe.data.bottlenecks.folder, recipe.data.bottlenecks.map_type = str(folder), "float32"
    recipe.phases += (dataclasses.replace(recipe.phases[0], trainable="", bottlenecks=False),)
    return recipe


@pytest.mark.parametrize(
    ("model", "size", "features"),
    [
        (Model("mobilenet_v3_small"), 48, 576),
        (
            Model("resnet_small", width=0.25, branches=(("stage2_block1_relu2", "pose"),)),
            32,
            8 * 8 * 16 + 32,
        ),
        pytest.param(
            Model("inception_v3", auxiliary_weight=0.4), 75, 2048 + 768, marks=pytest.mark.thorough
        ),
    ],
    ids=["mobilenet_v3_small", "branches", "inception_v3"],
)
def test_new_layers_learn_from_bottlenecks_what_they_learn_from_images(
    tmp_path, mtfl_records, model, size, features
):
    import tensorflow as tf

    from data_pipelines.input.batches import evaluation_batches
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.batches import training_stream
    from faceattr_tf.training.state import TrainingState
    from faceattr_tf.training.step import create_train_step

    recipe = on_bottlenecks(mtfl_records, tmp_path, l2=0.01)
    recipe.data.crop = Crop(kind="box", height=size, width=size, margin=0.3)
    recipe.data.micro_batch = 6
    recipe.model = model

    def weights_after(batch_of):
        experiment = Experiment.of(recipe)
        state = TrainingState(experiment, tf.distribute.get_strategy())
        batch = batch_of(experiment, state)
        create_train_step(state, experiment, 0)(batch)
        weights = {weight.path: weight.numpy() for weight in state.model.weights}
        return batch, weights, state.logged.numpy()

    def kept(experiment, state):
        return next(training_stream(experiment, state.strategy, 0, progress=False))

    def images(experiment, state):
        (source,) = experiment.sources("train")
        (everything,) = evaluation_batches(
            source, experiment.tasks, experiment.view, batch_size=source.count
        )
        names = everything["filename"].numpy().tolist()
        rows = [names.index(name) for name in seen["filename"].numpy()]
        chosen = {name: everything[name] for name in ("image", "labels")}
        return tf.nest.map_structure(lambda values: tf.gather(values, rows), chosen)

    seen, by_features, losses = weights_after(kept)
    assert seen["image"].shape == (12, features)
    recipe.phases[0].bottlenecks = False
    _, by_images, expected = weights_after(images)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for path, values in by_images.items():
        np.testing.assert_allclose(by_features[path], values, rtol=1e-3, atol=1e-5, err_msg=path)


def test_a_run_goes_on_from_bottlenecks_to_images(tmp_path, mtfl_records, capsys):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.features.extract import for_new_layers
    from faceattr_tf.training.loop import train_and_evaluate
    from faceattr_tf.workdir import Workdir

    recipe = on_bottlenecks(mtfl_records, tmp_path / "kept")
    train_and_evaluate(recipe, tmp_path / "w", progress=False)
    rows = [row for row in Workdir.open(tmp_path / "w").metrics_log() if "validation/loss" in row]
    assert [(row["step"], row["phase"]) for row in rows][-1] == (8, "train")
    assert Workdir.open(tmp_path / "w").load_model().input_shape == (None, 48, 48, 3)
    assert "are computed" in capsys.readouterr().out
    for_new_layers(Experiment.of(recipe), progress=False)
    assert "are computed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainable": ""}, "its layer '[a-z].*' trains; expected trainable"),
        ({"augment": (("flip", True),)}, "its images change at random"),
    ],
)
def test_bottlenecks_of_a_phase_that_changes_them_are_refused(
    tmp_path, mtfl_records, change, message
):
    from faceattr_tf.training.loop import train_and_evaluate

    recipe = on_bottlenecks(mtfl_records, tmp_path)
    recipe.phases = (dataclasses.replace(recipe.phases[0], **change),)
    with pytest.raises(UserError, match=f"phase 'train' cannot train on bottlenecks: {message}"):
        train_and_evaluate(recipe, tmp_path / "w", progress=False)
    assert not (tmp_path / "w").exists()


def test_bottlenecks_are_those_of_the_weights_that_the_recipe_names(tmp_path, mtfl_records):
    from faceattr_tf.training.loop import train_and_evaluate

    recipe = on_bottlenecks(mtfl_records, tmp_path)
    recipe.phases = recipe.phases[::-1]
    with pytest.raises(UserError, match="an earlier phase changes the layers before the new ones"):
        train_and_evaluate(recipe, tmp_path / "w", progress=False)


def test_recipes_of_inception_follow_the_paper():
    recipe = create_recipe("inception_full_mtfl")
    new, every = recipe.phases
    assert (new.steps, every.steps, new.learning_rate, every.learning_rate) == (
        1000,
        500,
        0.01,
        1e-3,
    )
    assert recipe.data.batch_size % recipe.data.micro_batch == 0
    recipe = create_recipe("inception_bottleneck_mtfl_nose")
    assert (recipe.phases[0].steps, recipe.evaluate_steps) == (4000, 10)
    assert (recipe.data.crop.kind, recipe.data.crop.window) == ("nose", 150.0)
