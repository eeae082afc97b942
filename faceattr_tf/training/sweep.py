"""The cells of a grid of recipes, each trained in a process of its own, several at a time."""

import collections
import contextlib
import dataclasses
import fcntl
import io
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from data_pipelines.errors import UserError
from data_pipelines.progress import progress_bar
from faceattr_tf.configs import Recipe
from faceattr_tf.workdir import Workdir

LOG = "train.log"
THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
POLL = 0.1
"""Seconds between looks at the processes."""

PATIENCE = 10.0
"""Seconds that a process has to end before it is asked less kindly."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        name: where its workdir lies in the folder of the sweep.
        condition: its values without the seed, in words.
        recipe: what it trains.
        workdir: its workdir.
        command: what trains it.
    """

    name: str
    condition: str
    recipe: Recipe
    workdir: pathlib.Path
    command: tuple[str, ...]


def state_of(cell: Cell) -> str:
    """`new`, `begun` or `finished`.

    Raises:
        UserError: recipe and records do not fit together, or the workdir is another recipe's.
    """
    from faceattr_tf.experiment import Experiment
    from faceattr_tf.training.resumption import FINISHED, as_begun, check_claim

    workdir = Workdir(cell.workdir)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # The log of the cell has the same remarks.
            experiment = Experiment.of(as_begun(cell.recipe, workdir))
        check_claim(workdir, experiment)
    except UserError as error:
        raise UserError(f"{cell.name}: {error}") from None
    if not (cell.workdir / "config.json").is_file():
        return "new"
    ended = all((cell.workdir / name).is_file() for name in FINISHED)
    return "finished" if ended else "begun"


def share_cores(jobs: int, cores_per_job: int = 0) -> list[list[int]]:
    """The processor cores of every job, of those that this process may use.

    Args:
        jobs: how many processes run at a time.
        cores_per_job: cores of each; 0 shares all evenly.

    Raises:
        UserError: there are not as many cores.
    """
    if jobs < 1 or cores_per_job < 0:
        raise UserError(f"jobs {jobs}, cores_per_job {cores_per_job}: expected 1 or more")
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))
    else:
        cores = list(range(os.cpu_count() or 1))
    each = cores_per_job or max(1, len(cores) // jobs)
    if jobs * each > len(cores):
        raise UserError(
            f"jobs {jobs} with {each} cores each need {jobs * each} cores; there are {len(cores)}"
        )
    return [cores[index * each : (index + 1) * each] for index in range(jobs)]


def run_cells(
    cells: Sequence[Cell], cores: Sequence[Sequence[int]], *, progress: bool = True
) -> dict[str, str]:
    """Trains cells, as many at a time as there are sets of cores, each with its log in its workdir.

    A cell that fails does not stop the others. On Ctrl-C, SIGTERM or a closed terminal all
    processes are ended, and what they wrote is what they go on from.

    Args:
        cells: what is to be trained.
        cores: of every process that runs at a time, as `share_cores` gives them.
        progress: show a bar.

    Returns:
        Name of every cell that failed -> the last line of its error.

    Raises:
        KeyboardInterrupt: a signal came.
    """
    waiting, free = collections.deque(cells), collections.deque(cores)
    running: list[_Training] = []
    failed: dict[str, str] = {}
    with _signals() as caught, progress_bar(len(cells), "cell", show=progress) as bar:

        def ended(cell: Cell, error: str, said: str) -> None:
            if error:
                failed[cell.name] = error
                bar.set_postfix(failed=len(failed))
            bar.write(f"{cell.name}: {said}")
            sys.stdout.flush()
            bar.update()

        try:
            while waiting or running or caught:
                if caught:
                    bar.write(f"stopping {len(running)} cells; the same command goes on with them")
                    raise KeyboardInterrupt
                while waiting and free:
                    cell = waiting.popleft()
                    try:
                        running.append(_Training(cell, free[0]))
                        free.popleft()
                    except BlockingIOError:
                        error = "another process is training it"
                        ended(cell, error, f"left out: {error}")
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    free.append(one.cores)
                    error = one.error()
                    ended(one.cell, error, f"failed: {error}" if error else one.duration())
                time.sleep(POLL if running else 0)
        finally:
            _stop([one.process for one in running])
    return failed


class _Training:
    """The process that trains a cell."""

    def __init__(self, cell: Cell, cores: Sequence[int]):
        """Starts it on some cores.

        Raises:
            BlockingIOError: there is one already, of another sweep or of one that was killed.
        """
        self.cell, self.cores, self.begun = cell, cores, time.monotonic()
        cell.workdir.mkdir(parents=True, exist_ok=True)
        self.log = cell.workdir / LOG
        with open(self.log, "ab") as log:
            # The process inherits the lock with its output, and lets go of it when it ends.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.start = log.tell()
            self.process = subprocess.Popen(
                cell.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ
                | dict.fromkeys(THREADS, str(len(cores)))
                | {"PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            )
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self.process.pid, cores)

    def error(self) -> str:
        """The last line of an error, empty where there was none."""
        status = self.process.returncode
        if not status:
            return ""
        with open(self.log, "rb") as log:
            log.seek(self.start)
            lines = log.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")
        return f"ended by {signal.Signals(-status).name}: {last}" if status < 0 else last

    def duration(self) -> str:
        """How long it took, in words."""
        return f"finished after {time.monotonic() - self.begun:,.0f} s"


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background: so do processes
        numbers.remove(signal.SIGINT)
    for number in numbers:
        for one in processes:
            one.send_signal(number)  # does nothing to one that has ended
        until = time.monotonic() + PATIENCE
        for one in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.wait(max(0, until - time.monotonic()))


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects the signals that ask to end, so that none comes between a process and its entry."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as `nohup` leaves it
            signal.signal(number, lambda number, _: caught.append(number))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
