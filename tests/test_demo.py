"""The server of the page to try: what it answers, and what it refuses."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from test_encoded import huge
from tiny_workdir import TASKS, draw_picture, encode, make_workdir
from untrained_run import make_run

from data_pipelines.crop.geometry import Crop
from data_pipelines.detection.mtcnn import Detection
from data_pipelines.errors import UserError
from data_pipelines.tasks import MTFL_ATTRIBUTES, Task
from faceattr_tf.commands.demo import main
from faceattr_tf.demo import server as demo_server
from faceattr_tf.demo.page import demo_page
from faceattr_tf.demo.server import DemoServer
from faceattr_tf.demo.service import HELD, BusyError, Service
from faceattr_tf.prediction.analyzer import Analyzer
from faceattr_tf.prediction.explain import Explainer

MAX_BYTES = 300_000
TYPE = {"Content-Type": "application/octet-stream"}
PICTURE = encode(draw_picture(3), ".png")


def two_faces(pictures):
    """A detector that finds the same two faces in every picture."""
    points = np.array([[12, 20], [28, 20], [20, 28], [14, 36], [26, 36]], np.float32)
    boxes = np.array([[8, 10, 24, 30], [2, 4, 12, 14]], np.float32)
    faces = [Detection(box, score, points) for box, score in zip(boxes, (0.9, 0.8), strict=True)]
    return [faces for _ in pictures]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("run") / "tcdcn")
    thresholds = {"attributes": {"temperature": 2.0, "thresholds": [0.1, 0.5, 0.9]}}
    made.write_json("calibration.json", thresholds)
    return made


@pytest.fixture(scope="module")
def analyzer(workdir):
    made = Analyzer.from_workdir(workdir.path, max_pixels=10_000)
    made._detector = two_faces
    return made


@pytest.fixture(scope="module")
def served(analyzer, workdir):
    server = DemoServer(max_bytes=MAX_BYTES)
    thread = threading.Thread(target=server.serve, args=[Service(analyzer, workdir)])
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def ask(server, path, body=None, method="POST", **headers):
    """Status, headers and content of an answer; a header that is None is left out."""
    host, port = server.server_address[:2]
    connection = http.client.HTTPConnection(host, port, timeout=60)
    with contextlib.closing(connection):
        fields = {} if body is None else TYPE | {"Content-Length": len(body)}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host="Host" in fields)
        for name, value in fields.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def refused(answer) -> tuple[int, str]:
    """Status and line of an answer that says no; never a traceback."""
    status, headers, content = answer
    assert headers["Content-Type"] == "application/json"
    (line,) = json.loads(content).values()
    assert "\n" not in line and "Traceback" not in line
    return status, line


def test_the_answer_is_that_of_the_analyzer(served, analyzer):
    status, headers, content = ask(served, "/analyze", PICTURE)
    found = json.loads(content)
    expected = analyzer.analyze(PICTURE, detect=True)
    assert status == 200 and len(expected) == 2
    assert found["faces"] == json.loads(json.dumps([face.to_dict() for face in expected]))
    assert (found["width"], found["height"]) == (48, 60)
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"


def test_a_picture_that_is_a_face_is_judged_as_one(served, analyzer):
    (face,) = json.loads(ask(served, "/analyze?whole=1", PICTURE)[2])["faces"]
    assert face == json.loads(json.dumps(analyzer.analyze(PICTURE).to_dict()))
    assert face["box"] is None


def test_an_explanation_is_that_of_the_explainer(served, analyzer, workdir):
    number = json.loads(ask(served, "/analyze", PICTURE)[2])["picture"]
    asked = json.dumps({"picture": number, "face": 1, "label": "Smiling"}).encode()
    status, headers, content = ask(served, "/explain", asked)
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    face = analyzer.analyze(PICTURE, detect=True)[1]
    expected = Explainer(analyzer, workdir, ["Smiling"]).draw(face, PICTURE)["Smiling"]
    assert np.abs(found.astype(int) - expected).mean() < 4


def test_a_picture_that_a_browser_cannot_show_is_copied_for_it(served):
    number = json.loads(ask(served, "/analyze", encode(draw_picture(3), ".tiff"))[2])["picture"]
    status, _, content = ask(served, "/copy", json.dumps({"picture": number}).encode())
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert status == 200 and np.abs(found.astype(int) - draw_picture(3)).mean() < 5


def test_the_last_pictures_are_held(served):
    number = json.loads(ask(served, "/analyze", PICTURE)[2])["picture"]
    for _ in range(HELD):
        ask(served, "/analyze?whole=1", PICTURE)
    asked = json.dumps({"picture": number, "face": 0, "label": "Smiling"}).encode()
    assert refused(ask(served, "/explain", asked)) == (
        400,
        "the picture is no longer held: choose it again",
    )


def test_the_page_needs_nothing_else_and_forbids_it(served):
    status, headers, content = ask(served, "/", method="GET")
    page = content.decode()
    assert status == 200 and headers["Content-Type"] == "text/html; charset=utf-8"
    assert not re.search(r"https?://|//[a-z]|\bsrc=|@import|url\(", page.replace("// ", ""))
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy and "connect-src 'self';" in policy
    settings = re.search(r'id="settings">(.*?)</script>', page)[1]
    tasks = {task["name"]: task for task in json.loads(settings)["tasks"]}
    assert tasks["attributes"]["thresholds"] == [0.1, 0.5, 0.9]


def test_every_kind_of_task_is_told_and_what_cannot_be_explained_is_said(tmp_path):
    workdir = make_workdir(tmp_path / "none", Crop("none", 12, 10))
    service = Service(Analyzer.from_workdir(workdir.path), workdir)
    (face,) = json.loads(json.dumps(service.analyze(PICTURE, whole=True)))["faces"]
    assert {*face["tasks"]} == {task["name"] for task in service.tasks}
    kinds = {task["name"]: task["kind"] for task in service.tasks}
    assert len(kinds) == len(TASKS) and kinds["emotion"] == "multiclass"
    page = demo_page(service, 1)[0]
    assert not service.explained and service.unexplained in page
    assert service.cannot_detect and 'id="whole" checked disabled' in page
    with pytest.raises(UserError, match="this network takes"):
        service.explain(1, 0, "Smiling")


def test_sensitive_tasks_are_there_when_they_are_asked_for_by_name(tmp_path, capsys):
    groups = Task("ethnicity", "multiclass", ("Asian", "Black"))
    workdir = make_run(tmp_path / "run", tasks=(MTFL_ATTRIBUTES, groups))
    service = Service(Analyzer.from_workdir(workdir.path), workdir)
    page = demo_page(service, 1)[0]
    assert "ethnicity: left out, as sensitive." in page and "Asian" not in page
    asked = Analyzer.from_workdir(workdir.path, sensitive=["ethnicity"])
    service = Service(asked, workdir)
    assert [task["name"] for task in service.tasks] == ["attributes", "ethnicity"]
    assert "left out" not in demo_page(service, 1)[0]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "not an image of a format that is read"),
        (b"<html>", "not an image of a format that is read"),
        (PICTURE[:-200], "not an image that can be decoded"),
        (encode(draw_picture(0, 200, 100), ".png"), "more than --max_pixels=10000"),
        (huge("BMP"), "which is too large"),
    ],
)
def test_a_bad_picture_is_a_line(served, content, line):
    status, said = refused(ask(served, "/analyze", content))
    assert status == 400 and line in said


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"[" * 9_000,
        b"[1]",
        b'{"picture": 1}',
        b'{"picture": [1], "face": 0, "label": "Smiling"}',
        b'{"picture": 1, "face": "0", "label": "Smiling"}',
        b'{"picture": 1e400, "face": 0, "label": "Smiling"}',
        b'{"picture": 1, "face": 0, "label": "\xff"}',
    ],
)
def test_a_question_that_makes_no_sense_is_a_line(served, asked):
    status, said = refused(ask(served, "/explain", asked))
    assert status == 400 and said.startswith("expected an object of JSON with picture (int)")


def test_what_there_is_not_is_a_line(served):
    number = json.loads(ask(served, "/analyze", PICTURE)[2])["picture"]
    for face, label, line in ((2, "Smiling", "face 3: the picture has 2"), (0, "Smile", "'Smile'")):
        asked = json.dumps({"picture": number, "face": face, "label": label}).encode()
        status, said = refused(ask(served, "/explain", asked))
        assert status == 400 and line in said
    assert refused(ask(served, "/secret", method="GET"))[0] == 404
    assert refused(ask(served, "/secret", b"x"))[0] == 404
    assert refused(ask(served, "/", b"x", method="DELETE"))[0] == 501


def test_sizes_are_bounded_before_anything_is_read(served):
    status, said = refused(ask(served, "/analyze", b"x" * (MAX_BYTES + 1)))
    assert status == 413 and said == "300,001 bytes, more than 300,000"
    for length in (None, "-1", "1e3", "9" * 30):
        assert refused(ask(served, "/analyze", b"x", Content_Length=length))[0] == 411
    chunked = {"Content_Length": None, "Transfer_Encoding": "chunked"}
    assert refused(ask(served, "/analyze", b"1\r\nx\r\n0\r\n\r\n", **chunked))[0] == 411
    assert refused(ask(served, "/explain", b"x" * 20_000))[0] == 413


@pytest.mark.parametrize(
    "host",
    ["attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example:80", "", "a b"],
)
def test_it_answers_under_its_own_names_alone(served, host):
    assert refused(ask(served, "/", method="GET", Host=host))[0] == 421
    assert refused(ask(served, "/analyze", PICTURE, Host=host))[0] == 421
    assert refused(ask(served, "/", method="GET", Host="192.0.2.1"))[0] == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:80", "LOCALHOST:8000", "[::1]:8000"])
def test_these_are_its_own_names(served, host):
    assert ask(served, "/", method="GET", Host=host)[0] == 200


def test_a_server_for_others_is_called_by_addresses_and_names_that_were_given():
    with DemoServer("0.0.0.0", names=["Box.local"]) as server:
        assert not server.alone and server.url.startswith("http://127.0.0.1:")
        names = "192.0.2.1:8000", "box.local", "localhost", "[2001:db8::1]:80"
        assert all(map(server.knows, names))
        assert not server.knows("attacker.example")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Content_Type": "text/plain"},
        {"Content_Type": "multipart/form-data; boundary=x"},
    ],
)
def test_other_sites_cannot_post(served, headers):
    assert refused(ask(served, "/analyze", PICTURE, **headers))[0] in (403, 415)


def test_the_page_itself_can_post(served):
    host, port = served.server_address[:2]
    headers = {"Origin": f"http://{host}:{port}", "Sec_Fetch_Site": "same-origin"}
    assert ask(served, "/analyze", PICTURE, **headers)[0] == 200


def test_one_prediction_at_a_time_and_not_too_many_wait(analyzer, workdir, monkeypatch):
    at_work, go, most = [], threading.Event(), []

    def slow(self, picture, detect=False):
        at_work.append(1)
        most.append(len(at_work))
        go.wait(30)
        at_work.pop()
        return []

    monkeypatch.setattr(Analyzer, "analyze", slow)
    monkeypatch.setattr(demo_server, "AT_ONCE", 3)
    server = DemoServer()
    serving = threading.Thread(target=server.serve, args=[Service(analyzer, workdir)])
    serving.start()
    answers = []
    asking = [
        threading.Thread(target=lambda: answers.append(ask(server, "/analyze", PICTURE)[0]))
        for _ in range(8)
    ]
    for thread in asking:
        thread.start()
    while len(answers) < 5:
        pass
    assert answers == [503] * 5
    go.set()
    for thread in asking:
        thread.join()
    server.shutdown()
    serving.join()
    assert sorted(answers) == [200] * 3 + [503] * 5 and most == [1, 1, 1]


def test_who_waits_too_long_is_told_so(analyzer, workdir):
    service = Service(analyzer, workdir, patience=0.05)
    with service._turn(), pytest.raises(BusyError, match="busy with other pictures"):
        service.analyze(PICTURE)


def test_a_defect_is_a_line_too_and_its_traceback_stays_in_the_terminal(
    served, monkeypatch, capsys
):
    def broken(*_, **__):
        raise ZeroDivisionError("a secret path")

    monkeypatch.setattr(Analyzer, "analyze", broken)
    status, said = refused(ask(served, "/analyze", PICTURE))
    assert status == 500 and "secret" not in said
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_who_goes_away_leaves_no_trace(served, capsys):
    host, port = served.server_address[:2]
    for request in (b"POST /analyze HTTP/1.1\r\n", b"\x16\x03\x01\x02", b"GET / HTTP/9.9\r\n\r\n"):
        with socket.create_connection((host, port)) as connection:
            connection.sendall(request)
    head = f"POST /analyze HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
    with socket.create_connection((host, port)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
    assert ask(served, "/", method="GET")[0] == 200
    assert capsys.readouterr().err == ""


def test_mistakes_are_one_line(workdir, served):
    taken = served.server_address[1]
    for arguments, line in (
        (["--workdir=nowhere"], "workdir nowhere does not exist"),
        ([f"--workdir={workdir.path}", f"--port={taken}"], "in use"),
        ([f"--workdir={workdir.path}", "--port=70000"], "port 70000"),
        ([f"--workdir={workdir.path}", "--host=192.0.2.1"], "192.0.2.1"),
        ([f"--workdir={workdir.path}", "--max_bytes=0"], "expected at least 1"),
        ([f"--workdir={workdir.path}", "--max_pixels=0"], "expected at least 1"),
        ([f"--workdir={workdir.path}", "--faces=0"], "expected at least 1"),
        ([f"--workdir={workdir.path}", "--sensitive=ethnicity"], "no sensitive task"),
        ([f"--workdir={workdir.path}", "--consistent"], "does not know which answers exclude"),
    ):
        with pytest.raises(UserError, match=line):
            main([*([] if any("--port" in a for a in arguments) else ["--port=0"]), *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_cleanly(workdir, number):
    # What is started in the background of a script ignores SIGINT, and its children do.
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    script = heeded + "from faceattr_tf.commands.demo import run; run()"
    command = [sys.executable, "-c", script, f"--workdir={workdir.path}", "--port=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            said = process.stdout.readline()
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", said)[1])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()  # else a failure would wait for it without an end
    assert (process.returncode, out, err) == (0, "ended\n", "")
