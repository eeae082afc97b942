"""Linear support vector machines as heads: what is fitted, and runs that end in them."""

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from data_pipelines.crop.geometry import Crop
from data_pipelines.errors import UserError
from data_pipelines.tasks import LANDMARKS, Task
from faceattr_tf.configs import Phase, TaskConfig, create_recipe
from faceattr_tf.configs.base import LINEAR_SVM
from faceattr_tf.features import linear
from faceattr_tf.features.batches import Features, Stored
from faceattr_tf.features.linear import check_linear_svm, fit_heads
from faceattr_tf.models.stages import build_top

YESNO = Task("attributes", "multilabel", ("first", "second", "only_yes"))
CLASS = Task("pose", "multiclass", ("left", "front", "right"))
COSTS = (1e-4, 1e-2, 1.0)
PHASE = Phase(name="svm", steps=1, optimizer=LINEAR_SVM, costs=COSTS)


def part(folder, name, count, seed, copies=1):
    """Features of which the labels are noisy linear functions; of each copy other ones."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(copies, count, 6)).astype(np.float32) * [1, 5, 0.1, 1, 1, 0] + 3
    files = []
    for copy, rows in enumerate(values):
        file = folder / f"{name}-{copy}.npy"
        np.save(file, rows.astype(np.float32))
        files.append((file,))
    values = np.moveaxis(values, 0, 1)
    noise = random.normal(size=(count, copies, 2))
    first = values[..., 0] + values[..., 3] > 6 + noise[..., 0]
    labels = np.stack([first, values[..., 1] > 5, np.ones_like(first)], axis=-1).astype(np.int32)
    labels[:3, :, 0] = -1
    pose = np.digitize(values[..., 4] + 0.2 * noise[..., 1], [2.5, 3.5]).astype(np.int32)
    pose[5] = -1
    return Features(
        Stored(tuple(files), np.arange(count)),
        {"attributes": labels, "pose": pose},
        np.array([f"{name}{index}".encode() for index in range(count)]),
        np.full(count, -1),
        np.zeros((count, copies, 2, 3), np.float32),
    )


def arrays(of, copies=1):
    rows = np.arange(len(of))
    batches = [of.batch(rows, np.full_like(rows, copy)) for copy in range(copies)]
    return [
        np.concatenate([batch["image"] for batch in batches]),
        *(
            np.concatenate([batch["labels"][name] for batch in batches])
            for name in ("attributes", "pose")
        ),
    ]


def test_what_was_interrupted_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    """Machines that are fitted already are not fitted again, unless anything has changed."""
    training, held = [part(tmp_path, "a", 60, 0)], [part(tmp_path, "b", 40, 1)]
    folder, fit, calls = tmp_path / "machines", linear.fit_machine, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit(*arguments)

    def heads(phase=PHASE, **options):
        calls.clear()
        model = build_top(6, (YESNO, CLASS))
        fit_heads(model, (YESNO, CLASS), phase, training, held, progress=False, **options)
        return [layer.get_weights() for layer in model.layers if layer.weights], len(calls)

    expected, _ = heads()
    monkeypatch.setattr(linear, "fit_machine", counted)
    with pytest.raises(KeyboardInterrupt):
        heads(folder=folder)
    found, count = heads(folder=folder)
    assert count == 3 and "machines: 3 of 6 machines found" in capsys.readouterr().out
    for one, other in zip(found, expected, strict=True):
        assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
    (folder / "pose-1.npz").write_bytes(b"cut")
    assert heads(folder=folder)[1] == 1
    monkeypatch.setattr(linear, "fit_machine", fit)
    heads(dataclasses.replace(PHASE, costs=(1e-3,)), folder=folder)
    assert "machines found" not in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize("copies", [1, 2])
def test_heads_are_the_machines_that_are_best_on_validation(tmp_path, copies, capsys, monkeypatch):
    monkeypatch.setattr(linear, "_WORTH_PROCESSES", 0 if copies > 1 else 1e6)
    training = [part(tmp_path, "a", 60, 0, copies), part(tmp_path, "b", 50, 1, copies)]
    held = [part(tmp_path, "c", 40, 2)]
    model = build_top(6, (YESNO, CLASS))
    fit_heads(model, (YESNO, CLASS), PHASE, training, held, progress=False)

    seen, labels, pose = (
        np.concatenate(both)
        for both in zip(*(arrays(one, copies) for one in training), strict=True)
    )
    other, other_labels, other_pose = arrays(held[0])
    given = model.predict(other, verbose=0)
    scaler = StandardScaler().fit(seen)

    def expected(answers, other_answers):
        known, comparable = answers >= 0, other_answers >= 0
        found = []
        for cost in COSTS:
            machine = LinearSVC(C=cost, dual=False, intercept_scaling=10.0)
            machine.fit(scaler.transform(seen[known]), answers[known])
            margins = machine.decision_function(scaler.transform(other))
            said, truth = margins[comparable] > 0, other_answers[comparable]
            score = accuracy_score(truth, said) + balanced_accuracy_score(truth, said)
            found.append((score, -cost, margins))
        return max(found, key=lambda one: one[:2])[2]

    for index in range(2):
        wanted = expected(labels[:, index], other_labels[:, index])
        np.testing.assert_allclose(given["attributes"][:, index], wanted, rtol=2e-3, atol=2e-3)
    np.testing.assert_array_equal(given["attributes"][:, 2], 1.0)  # of one sign alone
    for index in range(3):
        one = np.where(pose < 0, -1, pose == index)
        wanted = expected(one, np.where(other_pose < 0, -1, other_pose == index))
        np.testing.assert_allclose(given["pose"][:, index], wanted, rtol=2e-3, atol=2e-3)
    known = other_pose >= 0
    guess = np.bincount(other_pose[known]).max() / known.sum()
    assert (given["pose"].argmax(axis=1) == other_pose)[known].mean() > guess
    chosen = [line for line in capsys.readouterr().out.splitlines() if "C chosen" in line]
    assert [line.split(":")[0] for line in chosen] == ["attributes", "pose"]


def recipe_for(folder, records):
    recipe = create_recipe("smoke")
    recipe.model.width, recipe.model.layer = 0.25, "stage2_block1_relu2+pool"
    recipe.data.records = (records.path,)
    recipe.data.crop = Crop(kind="box", height=32, width=32, margin=0.3)
    recipe.data.bottlenecks.folder = str(folder)
    recipe.data.bottlenecks.use = True
    recipe.data.validation_share = 0.25
    recipe.tasks = (TaskConfig("attributes"), TaskConfig("pose"))
    recipe.phases = (dataclasses.replace(PHASE),)
    recipe.best_metric = "loss"
    return recipe


def test_a_run_ends_in_machines_on_several_stages_and_goes_on_where_it_was_killed(
    tmp_path, mtfl_records, monkeypatch
):
    from faceattr_tf.evaluation.split import measure_split, split_batches
    from faceattr_tf.training import loop
    from faceattr_tf.workdir import Workdir

    recipe = recipe_for(tmp_path / "features", mtfl_records)
    best = loop.train_and_evaluate(recipe, tmp_path / "whole", progress=False)
    assert best["step"] == 1 and best["phase"] == "svm"
    workdir = Workdir.open(tmp_path / "whole")
    model = workdir.load_model()
    assert model.get_layer("bottleneck").output.shape == (None, 16 + 32)
    batches = split_batches(workdir, mtfl_records, "test")
    results, _ = measure_split(workdir, model, mtfl_records, batches)
    assert {result.task.name for result in results} == {"attributes", "pose"}

    def killed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._Run, "_validate", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train_and_evaluate(recipe, tmp_path / "killed", progress=False)
    monkeypatch.undo()
    loop.train_and_evaluate(recipe, tmp_path / "killed", progress=False)
    for one, other in zip(
        model.weights, Workdir.open(tmp_path / "killed").load_model().weights, strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 2}, "expected steps 1, not 2"),
        ({"costs": ()}, "costs .* must be positive"),
        ({"costs": (0.0, 1.0)}, "costs .* must be positive"),
    ],
)
def test_phases_that_cannot_be_fitted_are_refused(tmp_path, mtfl_records, change, message):
    from faceattr_tf.training.loop import train_and_evaluate

    recipe = recipe_for(tmp_path / "features", mtfl_records)
    recipe.phases = (dataclasses.replace(PHASE, **change),)
    with pytest.raises(UserError, match=message):
        train_and_evaluate(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_machines_need_features_and_tasks_that_answer_yes_or_no(mtfl_records, tmp_path):
    from faceattr_tf.experiment import Experiment

    recipe = recipe_for(tmp_path, mtfl_records)
    recipe.tasks = (TaskConfig(LANDMARKS.name),)
    with pytest.raises(
        UserError, match="task 'landmarks' is of kind landmarks; it fits attributes"
    ):
        check_linear_svm(Experiment.of(recipe), PHASE)
    recipe.data.bottlenecks.use = False
    with pytest.raises(UserError, match=r"expected data\.bottlenecks\.use"):
        check_linear_svm(Experiment.of(recipe), PHASE)
