"""Keeps the start-up chatter of TensorFlow's C++ side off the terminal."""

import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator

# Lines that are written before any setting of TensorFlow's own can silence them.
_CHATTER = re.compile(
    rb"WARNING: All log messages before absl|[IWE]0000 .*\]|To enable the following"
    # The converter and the interpreter of LiteRT.
    rb"|^fully_quantize: |^INFO: Created TensorFlow Lite"
    # OpenCV and its FFmpeg, on videos; what is wrong with a file is said by its reader.
    rb"|^OpenCV: FFMPEG: |^\[ ?[A-Z]+:\d+@|^\[[\w,#:/ ]+ @ 0x|^Truncating packet "
    # Ray's core.
    rb"|^\[\d+-\d+-\d+ [\d:,]+ [IWE] \d+ \d+\] "
)


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Drops known log lines that native code writes to the standard error stream.

    Python's own `sys.stderr` goes straight to where it went before, so progress bars still see a
    terminal; only what native code writes passes through a filter. Nothing is changed where
    `sys.stderr` has been replaced, as test runners do.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if sys.stderr is not sys.__stderr__ or sys.stderr is None:
        yield
        return
    outside, python_stream = os.dup(2), sys.stderr
    sys.stderr.flush()
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    encoding, errors = python_stream.encoding, python_stream.errors
    sys.stderr = os.fdopen(outside, "w", 1, encoding, errors, closefd=False)
    thread = threading.Thread(target=_forward, args=(reader, outside), daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(outside, 2)
        sys.stderr = python_stream
        # A child that outlives this process may keep the pipe open: what is there is forwarded.
        thread.join(timeout=1)


def _forward(reader: int, outside: int) -> None:
    with open(reader, "rb") as lines:
        for line in lines:
            if not _CHATTER.match(line):
                os.write(outside, line)
