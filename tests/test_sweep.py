"""Grids of recipes: how they are declared, trained in processes side by side, and summed up."""

import contextlib
import fcntl
import io
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest

from data_pipelines.errors import UserError
from faceattr_tf.commands import compare
from faceattr_tf.commands import sweep as command
from faceattr_tf.commands.grid_file import read_grid
from faceattr_tf.configs import create_recipe
from faceattr_tf.reports.sweep import sweep_table
from faceattr_tf.training import sweep
from faceattr_tf.training.sweep import Cell, run_cells, share_cores
from faceattr_tf.workdir import Workdir

GRID = """
config = "smoke"
seeds = [3, 5]
fixed = {model.width = 0.25, "phases[1].epochs" = 0.0, "phases[1].steps" = 1}

[axes.loss]
off = {}
on = {losses = [["relation", 0.25, ["reading", "rescaled"]]], ema_decay = 0.5}

[axes.dropout]
"0.5" = {model.dropout = 0.5}
none = {model.dropout = 0}
"""


def cells_of(folder, text, records=("r",)):
    file = folder / "grid.toml"
    file.write_text(text)
    return read_grid(file, folder / "w", records)


def test_a_grid_is_every_combination_with_every_seed(tmp_path):
    cells = cells_of(tmp_path, GRID, ("r", "s"))
    assert [cell.name for cell in cells] == [
        f"loss={loss}/dropout={rate}/seed={seed}"
        for loss in ("off", "on")
        for rate in ("0.5", "none")
        for seed in (3, 5)
    ]
    expected = create_recipe("smoke")
    expected.data.records = ("r", "s")
    expected.model.width, expected.model.dropout = 0.25, 0.5
    expected.phases[1].epochs, expected.phases[1].steps = 0.0, 1
    expected.seed = 5
    assert cells[1].recipe == expected and cells[1].condition == "loss off, dropout 0.5"
    expected.losses, expected.ema_decay = (("relation", 0.25, ("reading", "rescaled")),), 0.5
    expected.model.dropout = 0.0
    assert cells[7].recipe == expected
    assert cells[7].workdir == tmp_path / "w" / "loss=on" / "dropout=none" / "seed=5"
    assert cells[7].command[:3] == (sys.executable, "-m", "faceattr_tf.commands.train")
    assert f"--workdir={cells[7].workdir}" in cells[7].command


def test_a_value_is_a_toml_value_or_the_text_of_a_flag(tmp_path):
    for value in ('[["relation", 0.1]]', "\"(('relation', 0.1),)\""):
        (cell,) = cells_of(tmp_path, f'config = "smoke"\nfixed = {{losses = {value}}}')
        assert cell.recipe.losses == (("relation", 0.1),)
        assert (cell.name, cell.condition) == ("seed=0", "smoke")


AXIS = 'config = "smoke"\n[axes.a]\n'
MISTAKES = {
    "is no TOML: ": "config = ",
    "is no TOML: Cannot overwrite": AXIS + "x = {}\nx = {}",
    "axis: no field of a grid; there are: config": 'config = "smoke"\naxis = 3',
    "config: expected the name of a recipe": "seeds = [1]",
    "config: flag --config=smok: there is no recipe": 'config = "smok"',
    "seeds: expected whole numbers that differ, not [0, 0]": 'config = "smoke"\nseeds = [0, 0]',
    "seeds: expected whole numbers that differ, not 3": 'config = "smoke"\nseeds = 3',
    "seeds: expected whole numbers that differ, not []": 'config = "smoke"\nseeds = []',
    "axes: expected a table": 'config = "smoke"\naxes = 3',
    "axes.a: has no values": AXIS,
    "axes.seed: seeds are no axis": AXIS.replace(".a", ".seed") + "x = {}",
    "axes.a.x: expected {FIELD = VALUE} and not 3": AXIS + "x = 3",
    "axes.a.x/y: 'x/y': expected letters": AXIS + '"x/y" = {}',
    "axes.a.x.lossses: the recipe has no field 'lossses'; did you mean": AXIS + "x = {lossses = 3}",
    "axes.a.x: sets 'seed'; expected seeds = ": AXIS + "x = {seed = 3}",
    "fixed: sets 'data.records'; expected --records": 'config="smoke"\nfixed={data.records = ["x"]}',
    "fixed.phases[7].epochs: tuple index": 'config = "smoke"\nfixed = {"phases[7].epochs" = 3}',
    "fixed.data.batch_size: flag --config.data.batch_size=x": (
        'config = "smoke"\nfixed = {data.batch_size = "x"}'
    ),
    "axes.a.0: '1.ema_decay' is no field of a recipe; names with a dot": (
        AXIS + "0.1 = {ema_decay = 0.1}"
    ),
    "axes.a.y: is the same recipe as axes.a.x": AXIS + "x = {}\ny = {ema_decay = 0.9}",
    "axes.b.y: sets 'ema_decay', which axes.a sets too": (
        AXIS + "x = {ema_decay = 0.1}\n[axes.b]\ny = {ema_decay = 0.2}"
    ),
    "axes.a.x: sets 'data.cache', which fixed sets too": (
        'config="smoke"\nfixed={data.cache=true}\n[axes.a]\nx={data.cache=false}'
    ),
}


@pytest.mark.parametrize("said", MISTAKES)
def test_a_mistake_in_a_grid_names_file_and_entry(tmp_path, said):
    with pytest.raises(UserError) as error:
        cells_of(tmp_path, MISTAKES[said])
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'grid.toml'}") and "\n" not in text
    assert text.removeprefix(f"{tmp_path / 'grid.toml'}").lstrip(": ").startswith(said)


def test_cores_are_shared_and_no_job_has_those_of_another(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 8}, raising=False)
    assert share_cores(2) == [[2, 3], [5, 7]]
    assert share_cores(3, 1) == [[2], [3], [5]]
    assert share_cores(1) == [[2, 3, 5, 7, 8]]
    with pytest.raises(UserError, match="need 6 cores; there are 5"):
        share_cores(6)
    with pytest.raises(UserError, match="need 6 cores; there are 5"):
        share_cores(2, 3)
    with pytest.raises(UserError, match="expected 1 or more"):
        share_cores(0)


def program(folder, name, code):
    """A cell that runs some Python in place of a training."""
    return Cell(name, name, None, folder / name, (sys.executable, "-S", "-c", code))


def test_as_many_cells_run_at_a_time_as_there_are_cores_and_on_these(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "7")
    cores = sorted(os.sched_getaffinity(0))
    sets = [cores[:1], cores[-1:]]
    # Nobody goes on before two have begun; whoever counts three then came after one had ended.
    code = f"""
import os, pathlib, time
folder = pathlib.Path({str(tmp_path)!r})
(folder / str(os.getpid())).touch()
until = time.monotonic() + 60
while len(begun := list(folder.glob("[0-9]*"))) < 2 and time.monotonic() < until:
    time.sleep(0.01)
time.sleep(0.2)
print(len(list(folder.glob("[0-9]*"))))
print(os.environ["TF_NUM_INTRAOP_THREADS"], *os.sched_getaffinity(0))
assert os.getsid(0) == os.getpid()  # which Ctrl-C on a terminal does not reach
"""
    cells = [program(tmp_path, f"cells/{name}", code) for name in "abc"]
    assert run_cells(cells, sets, progress=False) == {}
    begun, where = zip(
        *[(c.workdir / "train.log").read_text().splitlines() for c in cells], strict=True
    )
    assert min(begun) == "2" and begun[2] == "3"
    assert set(where) == {f"1 {core}" for (core,) in sets}


def test_a_cell_that_fails_is_told_and_does_not_stop_the_others(tmp_path, capsys):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train.log").write_text("of before\n")
    cells = [
        program(tmp_path, "a", "import sys; print('x'); sys.exit('tool: error: a mistake\\n')"),
        program(tmp_path, "b", "import sys; sys.exit(3)"),
        program(tmp_path, "c", "import os; print('working', flush=True); os.kill(os.getpid(), 9)"),
        program(tmp_path, "d", "print('done')"),
    ]
    failed = run_cells(cells, share_cores(1), progress=False)
    assert failed == {
        "a": "tool: error: a mistake",
        "b": "nothing was said",
        "c": "ended by SIGKILL: working",
    }
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "a: failed: tool: error: a mistake" and len(said) == 4
    assert re.fullmatch(r"d: finished after \d+ s", said[3])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_processes_and_starts_no_more(tmp_path, monkeypatch, number):
    monkeypatch.setattr(sweep, "PATIENCE", 0.2)
    handler = signal.signal(number, signal.default_int_handler)
    waits = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    # The second takes no notice of a kind request.
    signals = f"""
import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
while not os.path.getsize({str(tmp_path / "waits" / "train.log")!r}):
    time.sleep(0.01)
os.kill(os.getppid(), {int(number)})
time.sleep(60)
"""
    codes = {"waits": waits, "signals": signals, "never": "print(1)"}
    cells = [program(tmp_path, *one) for one in codes.items()]
    begun = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_cells(cells, [[core] for core in [*os.sched_getaffinity(0)] * 2][:2])
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, handler)
    assert time.monotonic() - begun < 20
    for cell in cells[:2]:
        with pytest.raises(ProcessLookupError):
            os.kill(int((cell.workdir / "train.log").read_text().split()[0]), 0)
    assert not cells[2].workdir.exists()


def test_a_cell_that_another_process_trains_is_left_alone(tmp_path):
    cell = program(tmp_path, "a", "print('trained')")
    cell.workdir.mkdir()
    with open(cell.workdir / "train.log", "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        assert run_cells([cell], [[0]]) == {"a": "another process is training it"}
    assert not (cell.workdir / "train.log").read_text()
    assert run_cells([cell], share_cores(1)) == {}
    # The lock is the process's own, so that it lasts where the sweep is killed.
    code = f"import fcntl\nfcntl.flock(open({str(cell.workdir / 'train.log')!r}), 6)"
    failed = run_cells([program(tmp_path, "a", code)], share_cores(1))
    assert failed["a"].startswith("BlockingIOError")


def test_the_table_has_means_over_seeds_and_their_spread():
    accuracies = (0.81, 0.84, 0.87)
    runs = {
        "off": [
            {"step": 3, "validation/loss": 0.5, "validation/pose/accuracy": one, "train/loss": 7.0}
            for one in accuracies
        ],
        "on": [{"validation/loss": 0.25, "validation/age/mae": 4.0}],
    }
    table = sweep_table(runs)
    assert table.header == (
        "Condition",
        "Runs",
        "loss",
        "pose accuracy (%)",
        "age mean absolute error",
    )
    spread = 100 * statistics.stdev(accuracies)
    assert table.rows == (
        ("off", "3", "0.5000 ± 0.0000", f"84.0 ± {spread:.1f}", "–"),
        ("on", "1", "0.2500", "–", "4.000"),
    )


SMALL = """
config = "smoke"

[fixed]
data.crop = {height = 24, width = 24}
model = {width = 0.25, options = [["filters", [16]], ["blocks", [1]]]}
"phases[0].steps" = 0
"phases[1].epochs" = 0
"phases[1].steps" = 1

[axes.ema]
none = {ema_decay = 0}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, mtfl_records):
    """The arguments of a sweep of two seeds, both finished, and what it printed training the first."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "grid.toml").write_text(SMALL)
    arguments = [f"--grid={folder / 'grid.toml'}", f"--records={mtfl_records.path}", "--noprogress"]
    arguments.append(f"--workdir={folder / 'w'}")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", ["faceattr-sweep", *arguments])
        command.main()
    second = Workdir(shutil.copytree(folder / "w/ema=none/seed=0", folder / "w/ema=none/seed=1"))
    second.write_json("config.json", second.recipe().to_dict() | {"seed": 1})
    (folder / "grid.toml").write_text("seeds = [0, 1]\n" + SMALL)
    return folder, arguments, printed.getvalue()


def run(monkeypatch, capsys, *arguments):
    """Status and output of the command, which may start no process."""
    monkeypatch.setattr(sweep.subprocess, "Popen", lambda *a, **b: pytest.fail("trains"))
    monkeypatch.setattr(sys, "argv", ["faceattr-sweep", *arguments])
    with pytest.raises(SystemExit) as ended:
        command.run()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_a_sweep_trains_its_cells_and_finds_them_finished(trained, monkeypatch, capsys):
    folder, arguments, printed = trained
    assert "1 cells, 0 finished, 0 begun, 1 new\nema=none/seed=0: finished after" in printed
    assert "step 1: loss" in (folder / "w/ema=none/seed=0/train.log").read_text()
    status, again, _ = run(monkeypatch, capsys, *arguments)
    assert status == 0 and "2 cells, 2 finished, 0 begun, 0 new\n\nCondition " in again
    assert f"'ema none={folder}/w/ema=none/seed=0'" in printed
    assert f"'ema none={folder}/w/ema=none/seed=0,{folder}/w/ema=none/seed=1'" in again


def test_the_runs_are_handed_to_compare_with_seeds_together(trained, monkeypatch, capsys):
    folder, arguments, _ = trained
    called = []
    monkeypatch.setattr(compare, "main", called.append)
    records = arguments[1].partition("=")[2]
    status, out, _ = run(monkeypatch, capsys, *arguments, "--compare", f"--evaluate={records}")
    assert status == 0 and "ema none      2 " in out
    (given,) = called
    flags = compare.parser().parse_args(given)
    cells = [folder / "w" / "ema=none" / f"seed={seed}" for seed in (0, 1)]
    assert compare.parse_conditions(flags.conditions) == {"ema none": [[str(one)] for one in cells]}
    assert flags.output == str(folder / "w" / "comparison-mtfl-test") and flags.records == records
    assert shlex.join(given).removeprefix("--noprogress ") in out


def test_what_has_not_ended_is_begun_and_named(trained, monkeypatch, capsys):
    folder, arguments, _ = trained
    card = folder / "w" / "ema=none" / "seed=1" / "model_card.md"
    card.rename(folder / "card")
    try:
        status, out, _ = run(monkeypatch, capsys, *arguments, "--dry_run")
        assert status == 0 and "1 finished, 1 begun, 0 new" in out
        assert "ema=none/seed=1: begun\n" in out and "--config.ema_decay=0 --config.seed=1" in out
        status, out, _ = run(monkeypatch, capsys, *arguments, "--compare")
        assert status == 0 and "left out below: ema=none/seed=1\n" in out
        assert "ema none      1 " in out and "seed=1" not in out.splitlines()[-1]
    finally:
        (folder / "card").rename(card)


def test_other_settings_and_mistakes_are_one_line(trained, monkeypatch, capsys):
    folder, arguments, _ = trained
    other = (folder / "grid.toml").read_text().replace("width = 0.25", "width = 0.5")
    (folder / "other.toml").write_text(other)
    cases = {
        "ema=none/seed=0: workdir .* belongs to another run: config.model.width is 0.25 there and 0.5": [
            f"--grid={folder / 'other.toml'}"
        ],
        "no cell is finished": [f"--workdir={folder / 'empty'}", "--compare"],
        "expected a path without , and [+]": ["--workdir=a,b"],
        "jobs 0, ": ["--jobs=0"],
        "ema=none/seed=0: .*no such folder of records": ["--records=nowhere"],
        "none.toml: No such file": ["--grid=none.toml"],
    }
    for said, flags in cases.items():
        status, _, error = run(monkeypatch, capsys, *arguments, *flags)
        (line,) = error.splitlines()
        assert status == 1 and re.match(f"faceattr-sweep: error: .*{said}", line), line
    assert not (folder / "empty").exists()


def test_help_and_mistakes_do_without_tensorflow(tmp_path):
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None;"
        "from faceattr_tf.commands.sweep import run; run()"
    )
    (tmp_path / "grid.toml").write_text('config = "nothing"')
    given = [f"--grid={tmp_path / 'grid.toml'}", "--records=r", f"--workdir={tmp_path / 'w'}"]
    for arguments, status, said in ((["--help"], 0, "[axes.obrl]"), (given, 1, "no recipe")):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == status and said in done.stdout + done.stderr
