"""Networks of finished runs that teach another one by their answers."""

from data_pipelines.errors import UserError
from data_pipelines.tasks import join_labels
from faceattr_tf.experiment import Experiment
from faceattr_tf.losses.distillation import soft_labels
from faceattr_tf.workdir import Workdir


class Teachers:
    """What a recipe's teachers say of a batch: `images -> {task: soft labels}`."""

    def __init__(self, experiment: Experiment):
        """Loads the models, and says what each of them teaches.

        Raises:
            UserError: a run is missing, was shown other crops, knows a task otherwise or none of
                the tasks; or the recipe trains on something else than these crops.
        """
        recipe = experiment.recipe
        self.temperature = recipe.distillation.temperature
        self.tasks = {task.name: task for task in experiment.tasks}
        self.models, self.places = [], []
        if recipe.teachers:
            _check_images(experiment)
        for path in recipe.teachers:
            workdir = Workdir.open(path)
            if workdir.crop != experiment.crop:
                raise UserError(
                    f"teacher {path} was shown {_words(workdir.crop)}; expected the crop that is "
                    f"trained on, {_words(experiment.crop)}"
                )
            self.places.append(self._places(path, workdir))
            self.models.append(workdir.load_model())

    def __call__(self, images) -> dict:
        """Soft labels of every task that somebody teaches; none without teachers."""
        outputs = [model(images, training=False) for model in self.models]
        taught = {}
        for name, task in self.tasks.items():
            known = [
                (o[name], p[name]) for o, p in zip(outputs, self.places, strict=True) if name in p
            ]
            if known:
                taught[name] = soft_labels(task, *zip(*known, strict=True), self.temperature)
        return taught

    def _places(self, path: str, workdir: Workdir) -> dict[str, list[int]]:
        """Per task that the run knows, where its labels stand in the run's."""
        found = {}
        for stored in workdir.tasks:
            if stored.name not in self.tasks:
                continue
            try:
                places = join_labels(stored, self.tasks[stored.name])
            except ValueError as error:
                raise UserError(f"teacher {path}: {error}") from None
            if max(places, default=-1) >= 0:
                found[stored.name] = places
        if not found:
            raise UserError(
                f"teacher {path} knows none of the tasks {', '.join(self.tasks)}; it knows: "
                + ", ".join(task.name for task in workdir.tasks)
            )
        shares = [
            f"{name} ({sum(p >= 0 for p in places)} of {len(places)} labels)"
            for name, places in found.items()
        ]
        print(f"teacher {path}: {', '.join(shares)}")
        return found


def _check_images(experiment: Experiment) -> None:
    recipe = experiment.recipe
    reason = ""
    if recipe.data.bottlenecks.use or any(phase.bottlenecks for phase in recipe.phases):
        reason = "and bottlenecks are features of images"
    elif any(phase.classifier_input != "transformed" for phase in recipe.phases):
        reason = "and a phase trains on others (classifier_input)"
    if reason:
        raise UserError(f"distillation.teachers see the crops that are trained on, {reason}")


def _words(crop) -> str:
    return ", ".join(f"{key} {value}" for key, value in crop.to_dict().items())
