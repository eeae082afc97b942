"""A workdir with a small network of the registry that was never trained, made in a second."""

import keras

from data_pipelines.crop.geometry import Crop
from data_pipelines.tasks import LANDMARKS, MTFL_ATTRIBUTES, POSE
from faceattr_tf.configs.base import Bottlenecks, Data, Model, Phase, Recipe
from faceattr_tf.models.create import create_network
from faceattr_tf.workdir import Workdir

TASKS = (MTFL_ATTRIBUTES, POSE, LANDMARKS)


def make_run(path, config=None, tasks=TASKS, records=None, size=48, features=""):
    """The workdir of a network, as if it had been trained on the records.

    Args:
        path: the folder, which is made.
        config: names the network; by default a narrow `tcdcn`.
        tasks: what it predicts.
        records: a `RecordSet`.
        size: height and width of its crop.
        features: folder for features that figures keep.
    """
    config = config or Model("tcdcn", width=0.25)
    crop = Crop("box", height=size, width=size, margin=0.2)
    keras.utils.set_random_seed(5)
    model = create_network(config, tasks, (size, size, 3))
    path.mkdir(parents=True)
    workdir = Workdir(path)
    data = Data(
        records=(records.path,) if records else (),
        crop=crop,
        validation_share=0.25,
        bottlenecks=Bottlenecks(folder=str(features)),
    )
    workdir.write_json(
        "config.json",
        Recipe(name="small", data=data, model=config, phases=(Phase(steps=1),)).to_dict(),
    )
    known = (
        [
            {
                "path": records.path,
                "name": records.name,
                "fingerprint": records.description.get("fingerprint"),
            }
        ]
        if records
        else []
    )
    metadata = {
        "tasks": [task.to_dict() for task in tasks],
        "crop": crop.to_dict(),
        "input_shape": [size, size, 3],
        "majority": {},
        "records": known,
    }
    workdir.write_json("metadata.json", metadata)
    workdir.save_model(model)
    return workdir
