"""Which precision `auto` stands for, and that a run keeps the one in which it was begun."""

import dataclasses
import types

import pytest
from test_train import tiny

from data_pipelines.errors import UserError
from faceattr_tf import precision
from faceattr_tf.configs import RECIPES, create_recipe

CPUINFO = """processor\t: 0
model name\t: Some Processor
flags\t\t: fpu avx2 {}

processor\t: 1
flags\t\t: fpu amx_bf16
"""


@pytest.mark.parametrize(
    ("features", "environment", "expected"),
    [
        ({"avx2", "avx512f", "avx512bw"}, {}, "float32"),
        ({"avx2", "avx512_bf16"}, {}, "mixed_bfloat16"),
        ({"amx_bf16"}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, "mixed_bfloat16"),
        ({"amx_bf16", "avx512_bf16"}, {"ONEDNN_MAX_CPU_ISA": "avx2"}, "float32"),
        ({"amx_bf16", "avx512_bf16"}, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "float32"),
        ({"amx_bf16"}, {"DNNL_MAX_CPU_ISA": "AVX2"}, "float32"),
        ({"amx_bf16"}, {"TF_ENABLE_ONEDNN_OPTS": "0"}, "float32"),
        (set(), {}, "float32"),
    ],
)
def test_a_processor_decides_by_what_it_has_and_what_is_hidden(features, environment, expected):
    found, reason = precision.of_processor(features, environment)
    assert found == expected and reason


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(8, 0)], "mixed_bfloat16"),
        ([(9, 0), (8, 6)], "mixed_bfloat16"),
        ([(7, 5)], "float32"),
        ([(9, 0), (7, 0)], "float32"),
        ([None], "float32"),
    ],
)
def test_gpus_decide_by_their_capability(capabilities, expected):
    assert precision.of_gpus(capabilities)[0] == expected


def test_the_first_processor_is_read(tmp_path):
    (tmp_path / "cpuinfo").write_text(CPUINFO.format("avx512_bf16"))
    features = precision.processor_features(tmp_path / "cpuinfo")
    assert features == {"fpu", "avx2", "avx512_bf16"}
    assert precision.processor_name(tmp_path / "cpuinfo") == "Some Processor"
    assert precision.processor_features(tmp_path / "none") == set()


def test_no_recipe_is_bound_to_one_kind_of_processor():
    assert {create_recipe(name).precision for name in RECIPES} <= {"auto", "float32"}
    assert create_recipe("demo").precision == "auto"


def of_machine(monkeypatch, features):
    monkeypatch.setattr(precision, "processor_features", lambda: features)
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.delenv(name, raising=False)


def test_a_run_goes_on_in_the_precision_in_which_it_was_begun(
    tmp_path, mtfl_records, monkeypatch, capsys
):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.resumption import as_begun, claim
    from faceattr_tf.workdir import Workdir

    recipe = tiny(mtfl_records, precision="auto")
    workdir = Workdir(tmp_path / "w")
    of_machine(monkeypatch, {"amx_bf16"})
    claim(workdir, Experiment.of(as_begun(recipe, workdir)))
    assert workdir.recipe().precision == "mixed_bfloat16"
    claim(workdir, Experiment.of(as_begun(recipe, workdir)))
    assert not capsys.readouterr().out
    of_machine(monkeypatch, set())
    experiment = Experiment.of(as_begun(recipe, workdir))
    claim(workdir, experiment)
    assert experiment.recipe.precision == "mixed_bfloat16"
    assert "goes on in mixed_bfloat16; begun here, it would be float32" in capsys.readouterr().out
    with pytest.raises(UserError, match="config.precision is 'mixed_bfloat16' there"):
        claim(workdir, Experiment.of(dataclasses.replace(recipe, precision="float32")))


def test_features_are_kept_under_the_precision_that_auto_came_to(mtfl_records, monkeypatch):
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.features.cache import Cache

    def folder(name, features):
        of_machine(monkeypatch, features)
        recipe = tiny(mtfl_records, precision=name)
        recipe.model = dataclasses.replace(recipe.model, name="mobilenet_v3_small", options=())
        experiment = Experiment.of(recipe)
        return Cache.of(experiment, experiment.sources("train")[0], "activation_17", 0, "").folder

    assert folder("auto", set()) == folder("float32", set())
    assert folder("auto", {"amx_bf16"}) == folder("mixed_bfloat16", set())


def test_an_unknown_precision_is_one_line(mtfl_records):
    from faceattr_tf.experiment import Experiment

    with pytest.raises(UserError, match="precision 'bfloat16' is none of auto, float32"):
        Experiment.of(tiny(mtfl_records, precision="bfloat16"))


def test_machines_that_differ_are_refused():
    from faceattr_tf.training.distribution import check_agreement

    def cluster(others):
        return types.SimpleNamespace(
            num_replicas_in_sync=2,
            run=lambda function: function(),
            reduce=lambda _, own, axis: (float(own) + others) / 2,
        )

    own = precision.PRECISIONS.index("float32")
    check_agreement(cluster(own), "float32")
    with pytest.raises(UserError, match="this one computes in float32, others do not"):
        check_agreement(cluster(own + 1), "float32")
