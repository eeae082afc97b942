import errno
import io
import os
import re
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from data_pipelines.commands import running
from data_pipelines.commands.data import main
from data_pipelines.errors import UserError
from data_pipelines.records.record_set import METADATA, RecordSet


def run_alone(*arguments):
    """The command in a process of its own, which tells what it imported."""
    code = (
        "import sys; from data_pipelines.commands.data import main\n"
        "try: status = main(sys.argv[1:])\n"
        "except SystemExit as end: status = end.code\n"
        "assert 'tensorflow' not in sys.modules\n"
        "sys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", ["build", "inspect", "detect", "synth", "paste"])
def test_help_has_examples_and_needs_no_tensorflow(command):
    ran = run_alone(command, "--help")
    assert ran.returncode == 0, ran.stderr
    assert f"faceattr-data {command} --" in ran.stdout


def test_build_prints_counts_and_balance(mtfl_tree, tmp_path, capsys):
    target = tmp_path / "records"
    arguments = ["build", "--dataset=mtfl", f"--source={mtfl_tree}", f"--records={target}"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    records = RecordSet.load(target)
    assert printed.out == records.summary() + "\n"
    assert re.search(rf"examples +{records.splits['train']} +{records.splits['test']}", printed.out)
    (no, yes), *_ = records.label_counts["train"]["attributes"]
    assert f"{yes} ({yes / (no + yes):.1%})" in printed.out
    assert printed.err == ""


def test_bars_are_shown_on_a_terminal_unless_they_are_not_wanted(mtfl_tree, tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    cv2.imwrite(str(tmp_path / "one" / "grey.png"), np.full((16, 16, 3), 90, np.uint8))
    build = ["build", "--dataset=mtfl", f"--source={mtfl_tree}"]
    detect = ["detect", f"--source={tmp_path / 'one'}", "--processes=1", "--overwrite"]
    for wanted in ([], ["--noprogress"]):
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main([*build, f"--records={tmp_path / f'records{len(wanted)}'}", *wanted]) == 0
        assert main([*detect, *wanted]) == 0
        for bar in ("mtfl train: 100%", "detect: 100%"):
            assert (bar in terminal.getvalue()) is not bool(wanted)


def test_options_reach_the_reader(celeba_tree, tmp_path):
    target = tmp_path / "records"
    arguments = [f"--source={celeba_tree}", f"--records={target}", "--option=split=identity"]
    assert main(["build", "--dataset=celeba", *arguments]) == 0
    assert RecordSet.load(target).description["options"]["split"] == "identity"


def damage_nothing(tree):
    pass


def remove_table(tree):
    (tree / "testing.txt").unlink()


def shorten_row(tree):
    lines = (tree / "training.txt").read_bytes().split(b"\r\n")
    lines[6] = lines[6].rsplit(b" ", 3)[0]
    (tree / "training.txt").write_bytes(b"\r\n".join(lines))


def cut_image(tree):
    path = next((tree / "AFLW").iterdir())
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "options", "complaint"),
    [
        (remove_table, [], "there is no testing.txt. MTFL is to be had from http"),
        (shorten_row, [], "training.txt, row 7: 12 fields, expected 15"),
        (cut_image, [], r"1 bad images, more than --max_bad=0: AFLW/\S+ does not decode"),
        (damage_nothing, ["--source=nowhere"], "nowhere: no such folder. MTFL is to be had from"),
        (damage_nothing, ["--option=colour"], "--option colour: expected NAME=VALUE"),
        (damage_nothing, ["--option=a=b"], "reader mtfl: no option 'a'; it has: none"),
        (damage_nothing, ["--detections=no.csv"], "no.csv: no such detections file"),
    ],
)
def test_a_mistake_is_one_line(mtfl_tree, tmp_path, capfd, damage, options, complaint):
    tree = shutil.copytree(mtfl_tree, tmp_path / "tree")
    damage(tree)
    target = tmp_path / "records"
    arguments = ["build", "--dataset=mtfl", f"--source={tree}", f"--records={target}", *options]
    assert main(arguments) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("faceattr-data build: error: ")
    assert re.search(complaint, error)
    assert not target.exists()


def test_an_incomplete_tree_is_refused_before_tensorflow_is_loaded(tmp_path):
    ran = run_alone("build", "--dataset=mtfl", f"--source={tmp_path}", f"--records={tmp_path}/r")
    assert ran.returncode == 1
    assert ran.stderr.count("\n") == 1
    assert "there is no training.txt" in ran.stderr


def test_an_unwritable_target_is_one_line(mtfl_tree, tmp_path, capsys):
    (tmp_path / "file").touch()
    target = tmp_path / "file/records"
    assert main(["build", "--dataset=mtfl", f"--source={mtfl_tree}", f"--records={target}"]) == 1
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["biuld"], ["build"], ["build", "--dataset=mtfi"], ["build", "--sauce=x"]]
)
def test_a_wrong_command_line_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: faceattr-data" in capsys.readouterr().err


def test_synth_draws_what_build_reads(tmp_path, capsys):
    tree = tmp_path / "lfwa"
    arguments = ["synth", "--dataset=lfwa", f"--folder={tree}", "--images=12", "--attributes=73"]
    assert main([*arguments, "--matlab=5", "--size", "64", "64"]) == 0
    assert main(["build", "--dataset=lfwa", f"--source={tree}", f"--records={tmp_path}/r"]) == 0
    assert sum(RecordSet.load(tmp_path / "r").splits.values()) == 11
    capsys.readouterr()
    assert main(["synth", "--dataset=mtfl", f"--folder={tmp_path}/m", "--matlab=5"]) == 1
    assert "--matlab belongs to --dataset=lfwa, not mtfl" in capsys.readouterr().err


def test_inspect_prints_the_summary_and_draws_a_picture(mtfl_records, tmp_path, capsys):
    picture = tmp_path / "grid.png"
    arguments = [f"--records={mtfl_records.path}", f"--picture={picture}", "--count=6"]
    assert main(["inspect", *arguments]) == 0
    assert mtfl_records.summary() in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", "--records=nowhere"]) == 1
    assert "nowhere: no such folder of records" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("x.txt, row 3: bad"), 1, "tool: error: x.txt, row 3: bad\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a/b"), 1, "tool: error: a/b: No such"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "tool: error: No space left"),
        (KeyboardInterrupt(), 130, "tool: interrupted\n"),
    ],
)
def test_what_is_not_a_defect_ends_with_one_line(error, status, line, capsys):
    def fail():
        raise error

    assert running.run_command("tool", fail) == status
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        running.run_command("tool", lambda: 1 / 0)


def test_a_finished_set_that_lost_a_file_is_named(mtfl_records, tmp_path, capsys):
    broken = shutil.copytree(mtfl_records.path, tmp_path / "broken")
    os.remove(broken / METADATA)
    assert main(["inspect", f"--records={broken}"]) == 1
    assert f"no complete records ({METADATA} is missing" in capsys.readouterr().err
