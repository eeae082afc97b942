"""Tiny data sets drawn once per test session, and records built from them."""

import gc
import os
import pathlib
import tempfile

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Two processes test side by side: threads of their own would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What XLA compiles here runs a few times: to optimise it takes longer than it saves.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Nothing of the modules that load now is garbage, and looking through them again and again takes
# seconds; `pytest_collection_finish` puts them aside for good.
gc.disable()

REAL_DATA = pathlib.Path(__file__).parents[2] / "shared" / "data"


LONGEST = (
    *("train", "fine_tuning", "spatial_transformer", "check", "facestn", "layer_contract"),
    *("keras_applications", "model_contract", "batch_losses", "export", "client", "bottlenecks"),
    *("signatures", "resumption", "alignment", "compare", "input", "skew", "imports"),
)
"""Files that come first, lest one process works on them alone when the other has nothing left."""


def pytest_collection_modifyitems(items):
    """Puts the longest files first; skips tests on real faces where these are absent."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if not REAL_DATA.is_dir():
        absent = pytest.mark.skip(reason="../shared/data is absent")
        for item in items:
            if "real_data" in item.keywords:
                item.add_marker(absent)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory):
    """What killed processes leave behind goes with the other folders of the tests."""
    os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("temporary"))
    tempfile.tempdir = None


def pytest_collection_finish():
    gc.freeze()
    # A full collection goes through all models and graphs that fixtures keep, for half a second.
    gc.set_threshold(700, 10, 150)
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real faces (research only; nothing of it enters the repository)."""
    return REAL_DATA


def _draw(tmp_path_factory, dataset, **options):
    from data_pipelines.synth import layouts

    folder = tmp_path_factory.mktemp("drawn") / dataset
    layouts.draw(dataset, folder, seed=1, **options)
    return folder


def _build(tmp_path_factory, dataset, source):
    from data_pipelines.records.build import build

    return build(dataset, source, tmp_path_factory.mktemp("records") / dataset)


@pytest.fixture(scope="session")
def celeba_tree(tmp_path_factory):
    """A drawn folder in CelebA's official layout."""
    return _draw(tmp_path_factory, "celeba", images=80)


@pytest.fixture(scope="session")
def mtfl_tree(tmp_path_factory):
    """A drawn folder in MTFL's layout."""
    return _draw(tmp_path_factory, "mtfl", images=80)


@pytest.fixture(scope="session")
def lfwa_tree(tmp_path_factory):
    """A drawn folder in LFWA's layout."""
    return _draw(tmp_path_factory, "lfwa", images=80)


@pytest.fixture(scope="session")
def lfw_tree(tmp_path_factory):
    """A drawn folder in LFW's layout, with its pairs."""
    return _draw(tmp_path_factory, "lfw", images=40, size=(48, 48))


@pytest.fixture(scope="session")
def lfw_records(tmp_path_factory, lfw_tree):
    """Records of `lfw_tree`."""
    return _build(tmp_path_factory, "lfw", lfw_tree)


@pytest.fixture(scope="session")
def celeba_records(tmp_path_factory, celeba_tree):
    """Records of `celeba_tree`."""
    return _build(tmp_path_factory, "celeba", celeba_tree)


@pytest.fixture(scope="session")
def mtfl_records(tmp_path_factory, mtfl_tree):
    """Records of `mtfl_tree`."""
    return _build(tmp_path_factory, "mtfl", mtfl_tree)


@pytest.fixture(scope="session")
def workdir(tmp_path_factory):
    """That of `tiny_workdir`, of aligned faces, for tests that write nothing into it."""
    from tiny_workdir import make_workdir

    from data_pipelines.crop.geometry import Crop

    return make_workdir(tmp_path_factory.mktemp("run") / "align", Crop("align", 12, 10, margin=0.2))


@pytest.fixture(scope="module")
def untimed():
    """Runtimes are asked twice: their latency is not what is tested."""
    from export.runtimes import verification

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "ROUNDS", 2)
        yield
