"""Every file of a deployment, read by what will read it: the server's messages, YAML."""

import configparser
import ipaddress
import json
import os
import pathlib
import re
import shutil

import pytest
import yaml

from data_pipelines import files
from data_pipelines.errors import UserError
from export import deployment
from export.commands.deploy import main
from export.deployment import write_deployment

TASK = {"name": "pose", "kind": "multiclass", "labels": ["a", "b"], "outputs": {"label": "x"}}
FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")


def fill(version, description):
    """The files of an export, as far as they are looked at."""
    for name in FILES:
        (version / name).parent.mkdir(exist_ok=True)
        (version / name).write_bytes(b"1234")
    (version / "assets" / "faceattr.json").write_text(json.dumps(description))
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "files.json").write_text(json.dumps(dict.fromkeys(FILES, 4)))


@pytest.fixture
def models(tmp_path):
    for name, version, sizes in (("faces", 1, [1, 8]), ("faces", 12, [1, 16]), ("hats", 3, [4])):
        folder = tmp_path / "models" / name / str(version) / "assets"
        folder.mkdir(parents=True)
        fill(folder.parent, {"tasks": [TASK], "batch_sizes": sizes})
    (tmp_path / "models" / "faces" / ".export-x" / "assets").mkdir(parents=True)
    (tmp_path / "models" / "faces" / ".export-x" / "assets" / "faceattr.json").write_text("{")
    return tmp_path / "models"


def read(folder, name):
    return (folder / name).read_text()


def parsed_models(folder):
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    config = text_format.Parse(read(folder, "config/models.config"), ModelServerConfig())
    return {model.name: model for model in config.model_config_list.config}


def test_the_servers_own_messages_read_the_models(models, tmp_path):
    write_deployment(models, tmp_path / "out", canary={"faces": 12})
    faces, hats = parsed_models(tmp_path / "out").values()
    assert (faces.base_path, faces.model_platform) == ("/models/faces", "tensorflow")
    assert list(faces.model_version_policy.specific.versions) == [1, 12]
    assert dict(faces.version_labels) == {"stable": 1, "canary": 12}
    assert list(hats.model_version_policy.specific.versions) == [3]
    assert dict(hats.version_labels) == {"stable": 3}


def test_monitoring_and_batching(models, tmp_path):
    write_deployment(models, tmp_path / "out", stable={"faces": 1})
    assert list(parsed_models(tmp_path / "out")["faces"].version_labels.values()) == [1]
    batching = read(tmp_path / "out", "config/batching.config")
    assert "max_batch_size { value: 8 }" in batching
    sizes = [line for line in batching.splitlines() if line.startswith("allowed_batch_sizes")]
    assert sizes == [f"allowed_batch_sizes: {size}" for size in (1, 4, 8)]
    monitoring = read(tmp_path / "out", "config/monitoring.config")
    assert "enable: true" in monitoring and '"/monitoring/prometheus/metrics"' in monitoring


def test_compose_listens_here_alone_and_may_change_nothing(models, tmp_path):
    write_deployment(models, tmp_path / "sub" / "out")
    (service,) = yaml.safe_load(read(tmp_path / "sub" / "out", "docker-compose.yaml"))[
        "services"
    ].values()
    assert service["image"] == "tensorflow/serving:2.20.0"
    for port in service["ports"]:
        address, outside, inside = port.split(":")
        assert ipaddress.ip_address(address).is_loopback and outside == inside
    assert service["read_only"] is True and not service["user"].startswith("0")
    assert service["cap_drop"] == ["ALL"]
    assert service["environment"] == {"MALLOC_ARENA_MAX": "2"}
    assert all(volume.endswith(":ro") for volume in service["volumes"])
    assert (tmp_path / "sub" / "out" / service["volumes"][0].split(":")[0]).resolve() == models
    for argument in service["command"]:
        if "_file=/config/" in argument:
            name = argument.partition("=/config/")[2]
            assert (tmp_path / "sub" / "out" / "config" / name).is_file()
    assert "GET /v1/models/faces HTTP/1.0" in service["healthcheck"]["test"][-1]
    assert "\\r\\n\\r\\n" in service["healthcheck"]["test"][-1]


@pytest.mark.parametrize("gpu", [False, True])
def test_kubernetes_manifests(models, tmp_path, gpu):
    write_deployment(models, tmp_path / "out")
    file = f"kubernetes/serving{'-gpu' if gpu else ''}.yaml"
    deployment, service, scaler = yaml.safe_load_all(read(tmp_path / "out", file))
    pod = deployment["spec"]["template"]
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["spec"]["containers"]
    assert container["image"] == "tensorflow/serving:2.20.0" + ("-gpu" if gpu else "")
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["env"] == [{"name": "MALLOC_ARENA_MAX", "value": "2"}]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v1/models/faces"
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == gpu
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {f"--port={ports['grpc']}", f"--rest_api_port={ports['rest']}"} < set(container["args"])
    assert pod["metadata"]["labels"].items() >= service["spec"]["selector"].items()
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["spec"]["volumes"]}


KSERVE = {
    "predictor": {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "model",
                  "automountServiceAccountToken"},
    "model": {"modelFormat", "runtime", "protocolVersion", "storageUri", "env",
              "resources", "securityContext"},
}  # fmt: skip
"""Fields of `serving.kserve.io/v1beta1` that the template uses; others would be dropped or refused."""


def test_kserve_serves_every_model_by_its_folder(models, tmp_path):
    shutil.copytree(models / "hats", models / "2_Hats.Test")
    write_deployment(models, tmp_path / "out")
    services = list(yaml.safe_load_all(read(tmp_path / "out", "kubernetes/inference-service.yaml")))
    places = {
        service["metadata"]["name"]: service["spec"]["predictor"]["model"]["storageUri"]
        for service in services
    }
    assert places == {
        "model-2-hats-test": "pvc://faceattr-models/2_Hats.Test",
        "faces": "pvc://faceattr-models/faces",
        "hats": "pvc://faceattr-models/hats",
    }
    for service in services:
        assert service["apiVersion"] == "serving.kserve.io/v1beta1"
        assert service["kind"] == "InferenceService"
        assert service.keys() == {"apiVersion", "kind", "metadata", "spec"}
        (predictor,) = service["spec"].values()
        model = predictor["model"]
        assert predictor.keys() == KSERVE["predictor"] and model.keys() == KSERVE["model"]
        assert predictor["minReplicas"] <= predictor["maxReplicas"]
        assert predictor["scaleMetric"] in ("cpu", "memory", "concurrency", "rps")
        # What KServe's ClusterServingRuntime of TensorFlow Serving takes.
        assert model["modelFormat"] == {"name": "tensorflow", "version": "2"}
        assert model["protocolVersion"] in ("v1", "grpc-v1")
        assert model["env"] == [{"name": "MALLOC_ARENA_MAX", "value": "2"}]
        assert model["securityContext"]["runAsNonRoot"] is True


def test_two_models_must_not_share_kserves_name(models, tmp_path):
    shutil.copytree(models / "hats", models / "Hats")
    with pytest.raises(UserError, match="two models would be hats for KServe"):
        write_deployment(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


DOCKER = pathlib.Path(__file__).parents[1] / "docker"


@pytest.mark.parametrize("name", ["client", "demo"])
def test_dockerfiles_install_this_package_and_run_its_command_without_root(name):
    lines = (DOCKER / f"{name}.Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    words = [word for word, _ in steps]
    assert words[0] == "FROM" and ":" in steps[0][1] and "latest" not in steps[0][1]
    assert "ADD" not in words
    users = [rest for word, rest in steps if word == "USER"]
    assert users and all(user.split(":")[0].isdecimal() and user[0] != "0" for user in users)
    assert words.index("USER") < words.index("ENTRYPOINT")
    (installs,) = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert "--no-cache-dir" in installs
    extras = re.findall(r"/source\[(\w+)\]", installs)
    config = configparser.ConfigParser()
    config.read(DOCKER.parent / "setup.cfg")
    assert set(extras) <= set(config["options.extras_require"])
    (entry,) = [json.loads(rest) for word, rest in steps if word == "ENTRYPOINT"]
    assert f"\n{entry[0]} = " in config["options.entry_points"]["console_scripts"]
    copied = [rest.split()[:-1] for word, rest in steps if word == "COPY"]
    packages = {path.rstrip("/") for group in copied for path in group}
    assert {"setup.cfg", "setup.py", "data_pipelines", "faceattr_tf", "export"} <= packages
    assert all((DOCKER.parent / path).exists() for path in packages)


def test_the_demo_listens_outside_of_its_container_only_where_docker_is_told_to():
    text = (DOCKER / "demo.Dockerfile").read_text()
    assert "--host=0.0.0.0" in text and "--publish=127.0.0.1:8000:8000" in text


def test_the_command_says_what_is_served(models, tmp_path, capsys):
    flags = [f"--models={models}", f"--output={tmp_path / 'out'}"]
    main([*flags, "--stable=faces=1", "--canary=faces=12"])
    assert "faces: stable is version 1, canary is version 12; batches of up to 16" in (
        capsys.readouterr().out
    )
    with pytest.raises(UserError, match="out exists already: .*--overwrite"):
        main(flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "out"]


def test_a_full_disk_leaves_nothing_and_the_same_goes_on(models, tmp_path, monkeypatch):
    written = []

    def write(file, text):
        written.append(file)
        if len(written) == 3:
            raise OSError(28, os.strerror(28), str(file))
        files.write_text(file, text)

    monkeypatch.setattr(deployment, "write_text", write)
    with pytest.raises(OSError, match="space"):
        write_deployment(models, tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".export*"))
    write_deployment(models, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.*"))) == len(written) - 3


def test_a_running_server_can_follow_every_change(models, tmp_path, capsys):
    flags = [f"--models={models}", f"--output={tmp_path / 'out'}", "--overwrite"]
    main([*flags, "--stable=faces=1"])
    config = tmp_path / "out" / "config"
    mounted = config.stat().st_ino

    def labels():
        return {
            name: dict(model.version_labels) for name, model in parsed_models(config.parent).items()
        }

    with pytest.raises(UserError, match="stable faces=12: .* version 1 only .*--canary=faces=12"):
        main([*flags, "--stable=faces=12"])
    assert labels() == {"faces": {"stable": 1}, "hats": {"stable": 3}}
    main([*flags, "--canary=faces=12"])  # stable stays what it is
    assert labels()["faces"] == {"stable": 1, "canary": 12}
    main([*flags, "--stable=faces=12"])
    assert labels()["faces"] == {"stable": 12}
    shutil.copytree(models / "faces" / "1", models / "faces" / "13")
    shutil.rmtree(models / "hats")
    main([*flags, "--canary=faces=1"])
    with pytest.raises(UserError, match="canary faces=13: .* version 1 only .*leave --canary out"):
        main([*flags, "--canary=faces=13"])
    main(flags)
    assert labels() == {"faces": {"stable": 12}}
    assert config.stat().st_ino == mounted  # a container sees the folder that it has mounted
    assert sorted(path.name for path in config.iterdir()) == [
        "batching.config", "models.config", "monitoring.config"
    ]  # fmt: skip
    (config / "models.config").write_text("model_config_list { config { } }")
    with pytest.raises(UserError, match="models.config is not of this command"):
        main(flags)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--stable=faces", "expected NAME=VERSION"),
        ("--stable=faces=7", "stable faces=7: there are faces=1, faces=12, hats=3"),
        ("--canary=hats=3", "canary hats=3: no other version is left to be stable"),
        ("--models=out", "holds no exported models"),
    ],
)
def test_mistakes_are_one_line(models, tmp_path, flag, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main([f"--models={models}", "--output=out", flag])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["absent", "empty", "cut"])
def test_an_incomplete_version_gets_no_label(models, tmp_path, listed, file, damage):
    version = models / "faces" / "12"
    if not listed:  # as exports were before they listed their files
        (version / "assets.extra" / "files.json").unlink()
    if damage == "absent":
        (version / file).unlink()
    else:
        (version / file).write_bytes(b"12" if damage == "cut" else b"")
    if damage == "cut" and not listed:
        pytest.skip("sizes are not known")
    words = "holds 2 of 4 bytes" if damage == "cut" else "is missing or empty"
    with pytest.raises(UserError, match=f"12/{file} {words}: the version is incomplete"):
        write_deployment(models, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", '{"tasks": [', '{"tasks": []}', '{"tasks": [{"name": 1}]}'])
def test_a_truncated_description_is_one_line(models, tmp_path, text):
    (models / "faces" / "12" / "assets" / "faceattr.json").write_text(text)
    with pytest.raises(UserError, match="faceattr.json: no description of an exported model"):
        write_deployment(models, tmp_path / "out")


@pytest.mark.parametrize("name", ["0001", "v2"])
def test_versions_that_the_server_would_not_find_are_named(models, tmp_path, name):
    (models / "faces" / "12").rename(models / "faces" / name)
    with pytest.raises(UserError, match=f"faces/{name}: no version that the server would find"):
        write_deployment(models, tmp_path / "out")


@pytest.mark.parametrize(
    ("place", "level"), [("..", "deep"), ("faces", "high"), ("faces/1", "high")]
)
def test_versions_on_another_level_are_named_with_the_right_folder(models, tmp_path, place, level):
    words = f"its versions lie too {level}, such as .*; give --models={models}$"
    with pytest.raises(UserError, match=words):
        write_deployment(models / place, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "written"), [("::1", "[::1]"), ("[::1]", "[::1]"), ("10.0.0.5", "10.0.0.5")]
)
def test_addresses_are_written_as_compose_reads_them(models, tmp_path, given, written):
    write_deployment(models, tmp_path / "out", address=given)
    compose = yaml.safe_load(read(tmp_path / "out", "docker-compose.yaml"))
    (service,) = compose["services"].values()
    assert [port.rsplit(":", 2)[0] for port in service["ports"]] == [written] * 2


@pytest.mark.parametrize("address", ["localhost", "", "10.0.0.5:9000", "[::1]:80", "300.1.1.1"])
def test_what_is_no_address_is_refused(models, tmp_path, address):
    with pytest.raises(UserError, match="expected an IP address of this machine"):
        write_deployment(models, tmp_path / "out", address=address)
    assert not (tmp_path / "out").exists()
