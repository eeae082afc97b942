"""How commands end, and what they keep off the terminal."""

import subprocess
import sys

import pytest

from data_pipelines.command_line import run_command
from data_pipelines.errors import UserError


def raising(error):
    def main():
        raise error

    return main


def test_a_mistake_is_one_line_and_status_1(capsys):
    assert run_command("tool", raising(UserError("no such row"))) == 1
    assert capsys.readouterr().err == "tool: error: no such row\n"


def test_what_the_system_refuses_is_one_line(capsys):
    full = OSError(28, "No space left on device", "records/x")
    assert run_command("tool", raising(full)) == 1
    assert capsys.readouterr().err == "tool: error: records/x: No space left on device\n"


def test_an_interrupt_is_no_traceback(capsys):
    assert run_command("tool", raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "tool: interrupted\n"


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command("tool", raising(ZeroDivisionError()))


def test_only_native_chatter_is_dropped():
    code = """
import os, sys
from data_pipelines.native_log import without_chatter
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
