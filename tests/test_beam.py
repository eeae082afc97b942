"""Records by Apache Beam: the bytes of one build by every runner, and mistakes in one line.

Apache Beam is in no environment of the other tests; where it is absent these are skipped.
"""

import importlib.util
import shutil
import subprocess
import sys

import pytest

from data_pipelines.commands.data import main
from data_pipelines.records.build import build

HERE = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not HERE, reason="Apache Beam is not installed")
TWO = "--direct_num_workers=2 --direct_running_mode=multi_processing"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def arguments(source, records, options):
    build = ["build", "--dataset=mtfl", f"--source={source}", f"--records={records}"]
    return [*build, f"--beam={options}"]


@pytest.mark.skipif(HERE, reason="Apache Beam is installed")
def test_what_to_install_is_one_line(mtfl_tree, tmp_path, capsys):
    assert main(arguments(mtfl_tree, tmp_path / "records", "")) == 1
    error = capsys.readouterr().err
    assert "--beam needs pip install 'faceattr_tf[beam]'" in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_parts_and_beam_exclude_each_other(mtfl_tree, tmp_path, capsys):
    assert main([*arguments(mtfl_tree, tmp_path / "records", ""), "--part=1/2"]) == 1
    assert "expected one of them" in capsys.readouterr().err


@needs_beam
@pytest.mark.parametrize("options", ["--runner=FnApiRunner", f"--runner=FnApiRunner {TWO}"])
def test_runners_write_the_bytes_of_one_build(mtfl_tree, tmp_path, options):
    build("mtfl", mtfl_tree, tmp_path / "whole")
    assert main(arguments(mtfl_tree, tmp_path / "records", options)) == 0
    assert contents(tmp_path / "records") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records", "whole"]


@needs_beam
def test_a_job_service_is_given_the_work_by_the_protocol_of_flink(mtfl_tree, tmp_path):
    build("mtfl", mtfl_tree, tmp_path / "whole")
    port = tmp_path / "port"
    service = "apache_beam.runners.portability.local_job_service_main"
    running = subprocess.Popen([sys.executable, "-m", service, f"--port_file={port}"])
    try:
        while not (port.exists() and port.read_text()):
            assert running.poll() is None
        options = f"--runner=PortableRunner --job_endpoint=localhost:{port.read_text()}"
        options += " --environment_type=LOOPBACK"
        assert main(arguments(mtfl_tree, tmp_path / "records", options)) == 0
    finally:
        running.kill()
        running.wait()
    assert contents(tmp_path / "records") == contents(tmp_path / "whole")


@needs_beam
def test_a_runner_that_does_not_exist_is_one_line(mtfl_tree, tmp_path, capsys):
    assert main(arguments(mtfl_tree, tmp_path / "records", "--runner=NoRunner")) == 1
    error = capsys.readouterr().err
    assert "error: --beam=--runner=NoRunner: " in error and "Traceback" not in error


@needs_beam
def test_a_bad_image_is_one_line(mtfl_tree, tmp_path, capsys):
    tree = shutil.copytree(mtfl_tree, tmp_path / "tree")
    picture = min(tree.rglob("*.jpg"))
    picture.write_bytes(picture.read_bytes()[:-100])
    assert main(arguments(tree, tmp_path / "records", "--runner=FnApiRunner")) == 1
    error = capsys.readouterr().err
    assert f"{picture.name} does not decode" in error and "Traceback" not in error
