"""How commands end, and what they keep off the terminal."""

import errno
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tensorflow as tf

from data_pipelines.commands.running import run_command
from data_pipelines.errors import UserError
from data_pipelines.files import replacing, write_text
from data_pipelines.progress import progress_bar

PACKAGES = ("data_pipelines", "faceattr_tf", "export")


def raising(error):
    def main():
        raise error

    return main


def test_a_mistake_is_one_line_and_status_1(capsys):
    assert run_command("tool", raising(UserError("no such row"))) == 1
    assert capsys.readouterr().err == "tool: error: no such row\n"


def test_what_the_system_refuses_is_one_line(capsys):
    refused = OSError(errno.EROFS, "Read-only file system", "records/x")
    assert run_command("tool", raising(refused)) == 1
    assert capsys.readouterr().err == "tool: error: records/x: Read-only file system\n"


def test_of_a_full_disk_file_and_room_are_named(capsys, tmp_path):
    """Whoever raises: the system, h5py and TensorFlow, of which only the first has a number."""
    full = os.strerror(errno.ENOSPC)
    for number, error in enumerate(
        (
            OSError(errno.ENOSPC, full),
            OSError(f"Can't write data (errno = 28, error message = '{full}')"),
            tf.errors.ResourceExhaustedError(None, None, f"{{{{function_node x}}}} y; {full}"),
        )
    ):
        kept = tmp_path / f"{number}.txt"
        write_text(kept, "before")

        def main(kept=kept, error=error):
            with replacing(kept) as temporary:
                temporary.write_text("half")
                raise error

        assert run_command("tool", main) == 1
        free = r"\d[\d,]*\.\d MB are free there; make room and run the same again\n"
        assert re.fullmatch(
            f"tool: error: {re.escape(str(kept))}: {full}, {free}", capsys.readouterr().err
        )
        assert kept.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 3
    assert run_command("tool", raising(error)) == 1
    assert capsys.readouterr().err == f"tool: error: y; {full}\n"


def test_an_interrupt_is_no_traceback(capsys):
    assert run_command("tool", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "tool: interrupted\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("tool", raising(ZeroDivisionError()))


def test_no_output_dies_of_a_character_that_its_stream_cannot_hold():
    code = """
import sys
from data_pipelines.commands.running import run_command
from data_pipelines.errors import UserError
def main():
    print("Jos\\xe9", "\\udcff")
    print("Jos\\xe9", file=sys.stderr)
    raise UserError("\\udcff: Jos\\xe9")
sys.exit(run_command("tool", main))
"""
    for encoding, shown in (("ascii", r"Jos\xe9"), ("utf-8", "Jos\xe9")):
        environment = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, env=environment, check=False
        )
        assert done.returncode == 1
        assert done.stdout.decode() == shown + " \\udcff\n"
        assert done.stderr.decode() == f"{shown}\ntool: error: \\udcff: {shown}\n"


def test_progress_is_shown_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def shown(stream, **options):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(3, "image", **options) as bar:
            bar.set_description("all")
            bar.update(3)
        return stream.getvalue()

    assert "3/3" in shown(Terminal())
    assert shown(Terminal(), show=False) == ""
    assert shown(io.StringIO()) == ""


def test_all_progress_bars_follow_the_one_rule():
    root = pathlib.Path(__file__).parents[1]
    files = [path for name in PACKAGES for path in (root / name).rglob("*.py")]
    made = {
        str(p.relative_to(root)) for p in files if re.search(r"\b(tq|tr)(dm|ange)\(", p.read_text())
    }
    assert made == {"data_pipelines/progress.py"}


def test_only_native_chatter_is_dropped():
    code = """
import os, sys
from data_pipelines.commands.native_log import without_chatter
with without_chatter():
    print("progress 1%", end="\\r", file=sys.stderr)
    os.write(2, b"I0000 00:00:1.1 7 port.cc:153] oneDNN custom operations are on.\\n")
    os.write(2, b"E1234 a failure that matters\\nlast words")
print("after", file=sys.stderr)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr
    assert shown.startswith(b"progress 1%\r")
    assert b"oneDNN" not in shown
    assert b"E1234 a failure that matters\nlast words" in shown
    assert shown.endswith(b"after\n")
