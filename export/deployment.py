"""Configuration of TensorFlow Serving for a folder of exported models.

    <output>/
        config/models.config        models, versions, labels `stable` and `canary`
        config/batching.config      how requests are joined
        config/monitoring.config    metrics for Prometheus
        docker-compose.yaml         one server on this machine
        kubernetes/serving.yaml     deployment, service, autoscaling; serving-gpu.yaml on GPUs
        kubernetes/inference-service.yaml   the same models by KServe, without labels of versions

Versions are named one by one: a version that is exported later is served when this is run again.
A running server reads `models.config` every 30 seconds. It takes labels first and loads afterwards,
and refuses the whole file where a label moves to a version that it has not loaded (`ReloadConfig`
in TensorFlow Serving's `server_core.cc`). Hence a new version is first the canary, then stable.
"""

import dataclasses
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jinja2

from data_pipelines.errors import UserError
from data_pipelines.files import local, write_text
from export.description import read_description
from export.versions import FILES_NAME, preparing

IMAGE = "tensorflow/serving:2.20.0"
"""The newest release that is known; exports are loaded by TensorFlow 2.20 as well."""

_DATA = "variables/variables.data-00000-of-00001"
_MODELS_CONFIG = "config/models.config"
_FILES = {
    _MODELS_CONFIG: "models.config.jinja",
    "config/batching.config": "batching.config.jinja",
    "config/monitoring.config": "monitoring.config.jinja",
    "docker-compose.yaml": "docker-compose.yaml.jinja",
    "kubernetes/serving.yaml": "kubernetes/serving.yaml.jinja",
    "kubernetes/serving-gpu.yaml": "kubernetes/serving.yaml.jinja",
    "kubernetes/inference-service.yaml": "kubernetes/inference-service.yaml.jinja",
}

_ARGUMENTS = (
    "--port=8500",
    "--rest_api_port=8501",
    "--model_config_file=/config/models.config",
    "--model_config_file_poll_wait_seconds=30",
    # At its start the server knows of labels before it has loaded what they stand for.
    "--allow_version_labels_for_unavailable_models=true",
    "--enable_batching=true",
    "--batching_parameters_file=/config/batching.config",
    "--monitoring_config_file=/config/monitoring.config",
)

# glibc keeps what is free in arenas, up to eight a core, and nobody gives it back when a version is
# unloaded: the server's `SimpleLoader::Unload` calls `MallocExtension_ReleaseToSystem`, which is
# empty in TensorFlow. The official images have glibc's allocator, which reads this.
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A model as the server is told of it.

    Attributes:
        name: what clients ask for.
        versions: those that are loaded, in growing order.
        labels: `stable` and, where there is one, `canary` -> version.
        batch_sizes: to which requests are joined.
    """

    name: str
    versions: tuple[int, ...]
    labels: dict[str, int]
    batch_sizes: tuple[int, ...]

    @property
    def service_name(self) -> str:
        """The name in the letters that Kubernetes takes for services (RFC 1035), 63 at most."""
        name = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return (name if name[:1].isalpha() else f"model-{name}")[:63].strip("-")


def write_deployment(
    models: str | Path,
    output: str | Path,
    *,
    stable: Mapping[str, int] | None = None,
    canary: Mapping[str, int] | None = None,
    address: str = "127.0.0.1",
    image: str = IMAGE,
    overwrite: bool = False,
) -> list[ServedModel]:
    """Writes the configuration that serves a folder of exported models.

    Args:
        models: folder that `faceattr-export` wrote to.
        output: folder to make.
        stable: model -> version with that label; by default the one that has it in the output
            that is replaced, or the highest that is no canary.
        canary: model -> version with that label.
        address: the address of the machine, at which the server of `docker-compose.yaml` listens.
        image: container image of the server; its variant for GPUs has `-gpu` behind it.
        overwrite: replace the files of an output folder that exists, each at once and in its
            place, as a running server has mounted it.

    Returns:
        What will be served.

    Raises:
        UserError: there are no models, a label stands for what is not there or would move to what
            a running server has not loaded, or the output exists.
    """
    address = parse_address(address)
    models, output = local(models), local(output)
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists already: choose another folder or give --overwrite")
    before = _read_config(output / _MODELS_CONFIG)
    kept = {name: m.labels["stable"] for name, m in before.items() if Path(models, name).is_dir()}
    served = find_models(models, kept | dict(stable or {}), canary or {})
    for model in served:
        _refuse_leap(before.get(model.name, model), model)
    names = [model.service_name for model in served]
    for model in served:
        if names.count(model.service_name) > 1:
            raise UserError(
                f"{model.name}: two models would be {model.service_name} for KServe: rename one"
            )
    sizes = sorted({size for model in served for size in model.batch_sizes})
    values = {
        "models": served,
        "batch_sizes": sizes,
        "threads": 4,
        "address": address,
        "arguments": _ARGUMENTS,
        "variables": _ENVIRONMENT,
        # Compose would take a path that does not begin so for the name of a volume.
        "models_path": os.path.join(".", os.path.relpath(models, output)),
        # Status knows no labels. The port opens when the first versions have been loaded.
        "status_path": f"/v1/models/{served[0].name}",
    }
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("export"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    texts = {}
    for file, template in _FILES.items():
        gpu = "-gpu" if "gpu" in file else ""
        texts[file] = environment.get_template(template).render(
            values, gpu=bool(gpu), image=image + gpu, name=f"faceattr{gpu}", file=file
        )
    if output.exists():
        _write(texts, output)
    else:
        with preparing(output.parent) as temporary:
            _write(texts, temporary / "deployment")
            os.rename(temporary / "deployment", output)
    return served


def _write(texts: Mapping[str, str], folder: Path) -> None:
    for file, text in texts.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / file, text)


def _read_config(file: Path) -> dict[str, ServedModel]:
    """The models of a `models.config` that `write_deployment` wrote, by name; none without it."""
    found = {}
    for text in re.split(r"\bconfig \{", file.read_text() if file.exists() else "")[1:]:
        name = re.search(r'name: "(.+)"', text)
        versions = tuple(int(version) for version in re.findall(r"versions: (\d+)", text))
        labels = re.findall(r'version_labels { key: "(\w+)" value: (\d+) }', text)
        labels = {label: int(version) for label, version in labels}
        if not name or "stable" not in labels:
            raise UserError(f"{file} is not of this command: choose another output folder")
        found[name[1]] = ServedModel(name[1], versions, labels, ())
    return found


def _refuse_leap(before: ServedModel, after: ServedModel) -> None:
    """Raises UserError where a label would move to a version that is not loaded before."""
    for label, version in after.labels.items():
        if before.labels.get(label, version) != version and version not in before.versions:
            first = "leave --canary out"
            if label == "stable":
                first = f"give --canary={after.name}={version}"
            raise UserError(
                f"{label} {after.name}={version}: a running server takes a label from version "
                f"{before.labels[label]} only to one that it has loaded. First {first}; or choose "
                "another output folder, for a server that is started anew"
            )


def read_complete(version: Path) -> dict:
    """The metadata of an exported version, all of whose files are there.

    Raises:
        UserError: a file is missing or of another size than when it was exported.
    """
    description = read_description(version)
    sizes = version / FILES_NAME
    expected = json.loads(sizes.read_text()) if sizes.exists() else {}
    # Exports from before they listed their files have at least these.
    expected = expected or dict.fromkeys(("saved_model.pb", "variables/variables.index"))
    if not any(name.startswith("variables/variables.data-") for name in expected):
        found = sorted(version.glob("variables/variables.data-*"))
        expected |= {found[0].relative_to(version).as_posix() if found else _DATA: None}
    for name, size in expected.items():
        file = version / name
        there = file.stat().st_size if file.is_file() else 0
        if not there or size not in (None, there):
            state = f"holds {there:,} of {size:,} bytes" if there else "is missing or empty"
            raise UserError(
                f"{file} {state}: the version is incomplete, and a server could not load it; copy "
                "it again, or export it anew"
            )
    if not isinstance(description.get("batch_sizes"), list):
        raise UserError(f"{version}/assets/faceattr.json: no batch_sizes; export the version anew")
    return description


def parse_address(text: str) -> str:
    """An IP address as docker-compose writes it: IPv6 in brackets.

    Raises:
        UserError: it is none.
    """
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise UserError(
            f"--address={text}: expected an IP address of this machine, such as 127.0.0.1 or ::1, "
            "without a port"
        ) from None
    return f"[{address}]" if address.version == 6 else str(address)


def find_models(
    folder: str | Path, stable: Mapping[str, int], canary: Mapping[str, int]
) -> list[ServedModel]:
    """The exported models of a folder, with the versions that have labels.

    Raises:
        UserError: there are none, or a label stands for what is not there.
    """
    found = {}
    for file in sorted(Path(folder).glob("*/*/assets/faceattr.json")):
        version, name = file.parents[1].name, file.parents[2].name
        if version.startswith(".") or name.startswith("."):  # an export that is being written
            continue
        if not re.fullmatch(r"[1-9][0-9]*", version):
            raise UserError(
                f"{file.parents[1]}: no version that the server would find; expected a folder "
                f"named by a number from 1, such as {Path(folder, name, '1')}"
            )
        found.setdefault(name, {})[int(version)] = read_complete(file.parents[1])
    if not found:
        for pattern, level in (("*/*/*", "deep"), ("*", "high"), (".", "high")):
            for file in Path(folder).glob(f"{pattern}/assets/faceattr.json"):
                raise UserError(
                    f"{folder}: its versions lie too {level}, such as {file.parents[1]}; "
                    f"give --models={file.resolve().parents[3]}"
                )
        raise UserError(f"{folder} holds no exported models: faceattr-export writes them")
    for label, chosen in (("stable", stable), ("canary", canary)):
        for name, version in chosen.items():
            if version not in found.get(name, {}):
                known = ", ".join(f"{n}={v}" for n in found for v in sorted(found[n]))
                raise UserError(f"{label} {name}={version}: there are {known}")
    models = []
    for name, versions in found.items():
        labels = {"canary": canary[name]} if name in canary else {}
        others = [version for version in versions if version != canary.get(name)]
        if name not in stable and not others:
            raise UserError(f"canary {name}={canary[name]}: no other version is left to be stable")
        labels = {"stable": stable[name] if name in stable else max(others)} | labels
        loaded = tuple(sorted(set(labels.values())))
        sizes = {size for version in loaded for size in versions[version]["batch_sizes"]}
        models.append(ServedModel(name, loaded, labels, tuple(sorted(sizes))))
    return models
