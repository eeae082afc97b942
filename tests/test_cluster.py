"""What `TF_CONFIG` may say, and the wait for the machines that it names."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from data_pipelines.errors import UserError
from faceattr_tf.training.cluster import EXAMPLE, ended_by_signals, read_cluster, wait_for_machines
from faceattr_tf.training.distribution import create_strategy, lost_machines_named

WORKERS = {"worker": ["a:1", "b:2"]}


def config(cluster=None, **task):
    return json.dumps({"cluster": cluster or WORKERS, "task": {"type": "worker", **task}})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"cluster": ', "no JSON: Expecting value"),
        (EXAMPLE.replace('"', "'"), "no JSON.*double quotes"),
        ("[]", "names no cluster; expected"),
        ('{"task": {"type": "worker", "index": 0}}', "names no cluster"),
        (json.dumps({"cluster": WORKERS}), "does not say which machine this one is"),
        (json.dumps({"cluster": WORKERS, "task": {"type": "worker"}}), "does not say which"),
        (config(index=2), "task index 2 of worker; expected 0 to 1"),
        (config(index=-1), "task index -1 of worker"),
        (config(index=None), "task index None of worker"),
        (config(type="chief", index=0), "task type 'chief' is none of worker"),
        (config({"worker": "a:1"}, index=0), "worker is 'a:1'; expected a list"),
        (config({"worker": []}, index=0), r"worker is \[\]; expected a list"),
        (config({"worker": ["a"]}, index=0), "worker 0 is 'a'; expected HOST:PORT"),
        (config({"worker": ["a:99999"]}, index=0), "worker 0 is 'a:99999'; expected HOST:PORT"),
        (config({"worker": ["http://a:1"]}, index=0), "worker 0 is 'http://a:1'"),
        (config({"worker": ["a:1", "a:1"]}, index=0), "a:1 is the address of two machines"),
        (config({"chief": ["a:1", "b:1"]}, index=0), "2 chiefs; expected one"),
        (config({"ps": ["a:1"], **WORKERS}, index=0), "cluster holds 'ps'; expected chief and"),
    ],
)
def test_what_names_no_cluster_is_one_line(text, words, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=f"^TF_CONFIG.*{words}") as raised:
        create_strategy("multi_worker")
    assert "\n" not in str(raised.value)


def test_a_cluster_is_read():
    machines, own = read_cluster(config({"chief": ["[::1]:5"], **WORKERS}, index="1"))
    assert machines == {"chief 0": ("::1", 5), "worker 0": ("a", 1), "worker 1": ("b", 2)}
    assert own == "worker 1"
    assert read_cluster(EXAMPLE)[1] == "worker 0"


def test_one_machine_alone_takes_no_cluster_of_several(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", EXAMPLE)
    with pytest.raises(UserError, match="mirrored is for one machine, and TF_CONFIG names 2"):
        create_strategy("mirrored")


@pytest.fixture
def machines():
    """A cluster of two on this machine, of whom nobody answers yet."""
    places = []
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as b:
        places = [one.getsockname(), b.getsockname()]
    return {f"worker {index}": place for index, place in enumerate(places)}


def test_machines_wait_for_one_another(machines, capsys, monkeypatch):
    monkeypatch.setattr("faceattr_tf.training.cluster.PAUSE", 0.01)
    begun = threading.Barrier(3)

    def work(own):
        wait_for_machines(machines, own)
        with socket.create_server(machines[own]):  # as TensorFlow listens there from now on
            begun.wait(10)

    workers = [threading.Thread(target=work, args=(own,)) for own in machines]
    workers[0].start()
    while "waiting for" not in (shown := capsys.readouterr().err):
        time.sleep(0.01)
    assert workers[0].is_alive()
    workers[1].start()
    begun.wait(10)
    host, port = machines["worker 1"]
    assert shown == f"waiting for worker 1 ({host}:{port}: Connection refused)\n"


def test_a_port_in_use_is_named(machines):
    with (
        socket.create_server(("", machines["worker 0"][1])),
        pytest.raises(UserError, match="of worker 0, this machine: Address already in use"),
    ):
        wait_for_machines(machines, "worker 0")


def test_an_interrupt_ends_the_wait(machines):
    # Who starts the tests in the background may have switched this signal off.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_for_machines(machines, "worker 0")
    finally:
        signal.signal(signal.SIGINT, before)


def test_termination_ends_the_wait(machines):
    program = (
        f"from faceattr_tf.training.cluster import *; wait_for_machines({machines}, 'worker 0')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr.readline().startswith("waiting for worker 1 (127.0.0.1:")
        run.send_signal(signal.SIGTERM)
        assert run.wait(10) == -signal.SIGTERM


def test_signals_end_native_code_too():
    before = signal.getsignal(signal.SIGINT)
    with ended_by_signals():
        for which in (signal.SIGINT, signal.SIGTERM):
            assert signal.getsignal(which) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


def test_a_machine_that_has_gone_is_one_line_which_says_how_to_go_on():
    import tensorflow as tf

    several = object.__new__(tf.distribute.MultiWorkerMirroredStrategy)
    error = tf.errors.UnavailableError(None, None, "{{node a}} {{node b}} task 1 is lost\nmore")
    words = r"goes on from its last checkpoint \(task 1 is lost\)$"
    with pytest.raises(UserError, match=words), lost_machines_named(several):
        raise error
    alone = tf.distribute.get_strategy()
    with pytest.raises(tf.errors.UnavailableError), lost_machines_named(alone):
        raise error
