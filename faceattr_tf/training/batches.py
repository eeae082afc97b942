"""The batches of a run, of images or of features, from any step on."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from data_pipelines.errors import UserError
from data_pipelines.input.augment import Augment
from data_pipelines.input.batches import training_batches
from data_pipelines.input.people import check_people_fit
from data_pipelines.input.reading import share_of
from data_pipelines.input.service import LOST, service_batches
from data_pipelines.input.view import View
from faceattr_tf.configs.base import Phase
from faceattr_tf.experiment import Experiment
from faceattr_tf.features.batches import Features, feature_batches
from faceattr_tf.features.extract import for_new_layers
from faceattr_tf.models.heads import NEW_LAYERS
from faceattr_tf.training.distribution import distribute
from faceattr_tf.training.slices import Sliced
from faceattr_tf.training.state import freeze


def check_bottlenecks(model: keras.Model, experiment: Experiment, phase: Phase) -> None:
    """Makes sure that what the layers before the new ones give is the same all through a phase.

    Raises:
        UserError: it is not, or not known when the run begins.
    """
    recipe = experiment.recipe
    freeze(model, phase)
    learning = [layer.name for layer in model.layers if layer.trainable and layer.weights]
    old = [name for name in learning if not name.startswith(NEW_LAYERS)]
    reason = ""
    if old:
        reason = f"its layer {old[0]!r} trains; expected trainable '^(head|aux|branch)_'"
    elif experiment.augment(phase) != Augment():
        reason = "its images change at random"
    elif recipe.warm_start:
        reason = "the layers before the new ones come from another run"
    elif not all(one.bottlenecks for one in recipe.phases[: recipe.phases.index(phase)]):
        reason = "an earlier phase changes the layers before the new ones"
    if reason:
        raise UserError(f"phase {phase.name!r} cannot train on bottlenecks: {reason}")


def see_the_same(experiment: Experiment, one: Phase, other: Phase) -> bool:
    """Whether two phases are trained on one stream: on the same images, changed alike."""
    return (
        one.bottlenecks == other.bottlenecks
        and one.classifier_input == other.classifier_input
        and experiment.augment(one) == experiment.augment(other)
    )


def training_stream(
    experiment: Experiment,
    strategy: tf.distribute.Strategy,
    start_step: int,
    features: Sequence[Features] = (),
    *,
    sliced: Sliced | None = None,
    progress: bool = True,
):
    """Endless batches from `start_step` on, the same ones however often the run was interrupted.

    They are those of the phase that the step belongs to. With `data.service` they are whatever
    comes first.

    Args:
        experiment: gives data, tasks and phases.
        strategy: over which replicas batches are distributed.
        start_step: counted from the start of the run.
        features: the stored features of every training source, for a run on bottlenecks.
        sliced: the slices of the images, where these weigh by them.
        progress: show a bar where features have to be computed first.
    """
    recipe = experiment.recipe
    phase = recipe.phases[experiment.phase_at(start_step)]
    view, augment = experiment.view, experiment.augment(phase)
    if phase.bottlenecks and not features:
        features = for_new_layers(experiment, progress=progress)
    if phase.classifier_input == "aligned":
        view = View(view.aligned, view.aligned)

    images, replicas = recipe.data.images_per_person, strategy.num_replicas_in_sync
    if images:
        for index in range(replicas):
            begin, end = share_of(recipe.data.batch_size, index, replicas)
            check_people_fit(images, end - begin, "a replica's share")
        print(experiment.describe_people())
    if recipe.data.service:
        print(f"images are prepared by {recipe.data.service}: {LOST}")

    def create(worker: int, workers: int):
        batches = unsliced(worker, workers)
        return sliced.added_to(batches) if sliced else batches

    def unsliced(worker: int, workers: int):
        if features:
            return feature_batches(
                features,
                [source.weight for source in experiment.sources("train")],
                batch_size=recipe.data.batch_size,
                seed=recipe.seed,
                images_per_person=images,
                start_step=start_step,
                worker=(worker, workers),
            )
        examples = experiment.sources("train"), experiment.tasks, view, augment
        size, seed = recipe.data.batch_size, recipe.seed
        if recipe.data.service:
            if size % workers:
                raise UserError(
                    f"data.service gives all machines batches of one size: batch_size {size} is no "
                    f"multiple of their number, {workers}"
                )
            # One pass for all machines of a run, and no other run's.
            machines = strategy.cluster_resolver.cluster_spec() if workers > 1 else ""
            job = f"{machines} from step {start_step}" if machines else ""
            size //= workers
            return service_batches(
                recipe.data.service, *examples, batch_size=size, seed=seed, job=job
            )
        more = {"seed": seed, "start_step": start_step, "worker": (worker, workers)}
        return training_batches(*examples, batch_size=size, **more)

    return iter(distribute(strategy, create, recipe.data.batch_size))
