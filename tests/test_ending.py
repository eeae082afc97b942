"""A program ends although it holds iterators that ask Python for their elements."""

import pathlib
import subprocess
import sys

import numpy as np

PROGRAM = """
import pathlib, sys, time
import numpy as np
from data_pipelines.formats.tfrecord import RecordFiles
from data_pipelines.input.people import batches_of_people
from data_pipelines.input.reading import read_share
from data_pipelines.input.stream import Source
from data_pipelines.records.record_set import RecordSet
from faceattr_tf.features.batches import Features, Stored, feature_batches

def slowly(read):
    def wrapped(*arguments):
        time.sleep(0.3)  # so that elements are being read when the program ends
        return read(*arguments)
    return wrapped

RecordFiles.read, Stored.read = slowly(RecordFiles.read), slowly(Stored.read)
source = Source(RecordSet.load(sys.argv[1]), "train", images_per_person=2)
people = read_share(batches_of_people([source], 0, 4, 0), [source], (0, 4))
people = iter(people.prefetch(8))
part = Features(
    Stored(((pathlib.Path(sys.argv[2]),),), np.arange(9)), {}, np.array([b"name"] * 9),
    np.arange(9), np.zeros((9, 1, 2, 3), np.float32),
)
features = iter(feature_batches([part], [1.0], batch_size=2, seed=0).prefetch(8))
next(people), next(features)
print("end", flush=True)
"""


def test_a_program_that_holds_iterators_ends(celeba_records, tmp_path):
    np.save(tmp_path / "features.npy", np.ones((9, 4), np.float32))
    arguments = [celeba_records.path, str(tmp_path / "features.npy")]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,  # it hung for ever
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
