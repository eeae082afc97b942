"""The client against the official services, implemented by a test double over an exported model."""

import concurrent.futures
import itertools
import json
import shutil
import ssl
import subprocess
import threading
import time

import numpy as np
import pytest
from serving_double import start, start_rest
from test_encoded import KINDS
from tiny_workdir import draw_picture, encode, make_workdir

import export
from data_pipelines.crop.geometry import Crop
from data_pipelines.detection.mtcnn import Detection
from data_pipelines.errors import UserError
from data_pipelines.formats.encoded import decode, read_header
from export.client import Client
from export.commands.canary import main as judge
from export.commands.client import main
from export.description import named, read_description, summary
from export.drawn_requests import draw_requests
from export.transports import Refused, Unavailable

SIGNATURES = ("serving_default", "pixels", "crop", "features")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two versions with different calibrations."""
    folder = tmp_path_factory.mktemp("serving")
    workdir = make_workdir(folder / "run", Crop("align", 12, 10, margin=0.2))
    options = export.ExportOptions(warmup=False)
    export.export_model(workdir.path, folder / "models", options=options)
    workdir.write_json("calibration.json", {"attributes": {"temperature": 0.5}})
    export.export_model(workdir.path, folder / "models", options=options)
    return folder / "models"


@pytest.fixture(scope="module")
def running(models):
    server, port, prediction = start(models, "faceattr", {"stable": 1, "canary": 2})
    rest, rest_port = start_rest(prediction.versions)
    yield {"grpc": f"127.0.0.1:{port}", "rest": f"127.0.0.1:{rest_port}",
           "prediction": prediction, "web": rest}  # fmt: skip
    server.stop(None)
    rest.shutdown()
    rest.server_close()


@pytest.fixture(scope="module")
def loaded(models):
    import tensorflow as tf

    return {version: tf.saved_model.load(str(models / "faceattr" / str(version))).signatures
            for version in (1, 2)}  # fmt: skip


def expected_answers(loaded, version, signature, inputs):
    import tensorflow as tf

    inputs = {name: tf.constant(values) for name, values in inputs.items()}
    return {name: v.numpy() for name, v in loaded[version][signature](**inputs).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize("signature", SIGNATURES)
def test_every_signature_answers(running, loaded, protocol, signature):
    inputs = draw_requests(3, size=(60, 48)).inputs(signature)
    if signature == "crop":
        inputs["landmarks"][1:], inputs["box"][2:] = np.nan, np.nan  # known, known in part, not
    with Client(running[protocol], protocol=protocol, label="stable") as client:
        if (protocol, signature) == ("rest", "pixels"):
            with pytest.raises(Refused, match="pixels do not travel over REST"):
                client.call(signature, inputs)
            return
        found = client.call(signature, inputs)
    assert_same(found, expected_answers(loaded, 1, signature, inputs))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_versions_and_labels(running, loaded, protocol):
    inputs = draw_requests(1).inputs("serving_default")
    for place, version in (({"version": 1}, 1), ({"label": "canary"}, 2), ({}, 2)):
        with Client(running[protocol], protocol=protocol, **place) as client:
            found = client.call("serving_default", inputs)
        assert_same(found, expected_answers(loaded, version, "serving_default", inputs))


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_answers_come_in_order_and_a_bad_file_fails_alone(running, loaded, tmp_path, protocol):
    files = []
    for index in range(7):
        files.append(tmp_path / f"{index}.jpg")
        files[-1].write_bytes(encode(draw_picture(index)))
    files[2].write_bytes(b"no image")
    files[4].write_bytes(files[4].read_bytes()[:200])
    files.insert(5, tmp_path / "absent.jpg")
    options = {"protocol": protocol, "batch_size": 3, "concurrency": 2}
    with Client(running[protocol], **options) as client:
        answers = list(client.predict(files))
    assert [answer.name for answer in answers] == [str(file) for file in files]
    failed = {index for index, answer in enumerate(answers) if answer.error}
    assert failed == {2, 4, 5}
    assert answers[2].error == "no image that the model takes"
    assert answers[5].error == "No such file or directory"
    good = [index for index in range(8) if index not in failed]
    contents = [files[index].read_bytes() for index in good]
    expected = expected_answers(loaded, 2, "serving_default", {"image_bytes": contents})
    del expected["valid"]
    for row, index in enumerate(good):
        assert_same(answers[index].outputs, {key: v[row] for key, v in expected.items()})


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_every_face_that_is_found_is_asked_about(running, loaded, tmp_path, protocol):
    """In the pixels of the upright picture; files without a face or an image fail alone."""
    files = [tmp_path / f"{index}.jpg" for index in range(4)]
    for index, file in enumerate(files):
        file.write_bytes(encode(draw_picture(index)))
    files[1].write_bytes(b"no image")
    seen = []

    def detector(pictures):
        seen.extend(pictures)
        return [[face(4 * k) for k in range(3 - len(seen) + i)] for i in range(len(pictures))]

    def face(left):
        points = np.array([[4, 5], [9, 5], [6, 8], [4, 10], [9, 10]], np.float32) + left
        return Detection(np.array([left, left, 14, 16], np.float32), 0.9, points)

    with Client(running[protocol], protocol=protocol, batch_size=2, label="stable") as client:
        answers = list(client.predict(files, signature="crop", detector=detector))
    expected = [(files[0], 2), (files[1], 0), (files[2], 0), (files[3], 1)]
    names = [str(file) for file, count in expected for _ in range(max(count, 1))]
    assert [answer.name for answer in answers] == names
    assert "image" in answers[2].error and answers[3].error == "no face was found"
    for answer, left in ((answers[0], 0), (answers[1], 4), (answers[4], 0)):
        assert answer.box == (left, left, 14, 16)
        inputs = {
            "image_bytes": [(tmp_path / answer.name).read_bytes()],
            "box": face(left).box[None],
            "landmarks": face(left).landmarks[None],
        }
        values = expected_answers(loaded, 1, "crop", inputs)
        del values["valid"]
        assert_same(answer.outputs, {name: value[0] for name, value in values.items()})
    assert [picture.shape for picture in seen] == [draw_picture(0).shape] * 3


def test_photographs_are_turned_upright(running):
    data = encode(draw_picture(3, 60, 48))
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    with Client(running["grpc"]) as client:
        plain, turned = client.predict([data, data[:2] + segment + data[2:]])
    assert not turned.error
    name = "attributes_probability"
    assert np.abs(plain.outputs[name] - turned.outputs[name]).max() > 1e-3


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
@pytest.mark.parametrize(
    ("options", "signature", "message"),
    [
        ({"model": "other"}, "serving_default", "not found"),
        ({"version": 9}, "serving_default", "9"),
        ({"label": "nightly"}, "serving_default", "nightly"),
        ({}, "other", "not found"),
    ],
)
def test_what_does_not_exist_is_refused_at_once(running, protocol, options, signature, message):
    before = running["prediction"].requests
    client = Client(running[protocol], protocol=protocol, **options)
    with client, pytest.raises(Refused, match=message):
        client.call(signature, {"image_bytes": [b""]})
    if protocol == "grpc":
        assert running["prediction"].requests == before + 1


def test_inputs_of_another_shape_are_refused(running):
    with Client(running["grpc"]) as client, pytest.raises(Refused, match="invalid argument"):
        client.call("pixels", {"pixels": np.zeros([1, 5, 5], np.uint8)})


def test_only_what_is_unavailable_is_tried_again(running):
    inputs = {"image_bytes": [encode(draw_picture(1))]}
    prediction = running["prediction"]
    prediction.unavailable, before = 2, prediction.requests
    with Client(running["grpc"], retries=2) as client:
        assert client.call("serving_default", inputs)["valid"].all()
    assert prediction.requests == before + 3
    prediction.unavailable = 1
    with Client(running["grpc"], retries=0) as client, pytest.raises(Unavailable, match="busy"):
        client.call("serving_default", inputs)
    running["web"].answers += [(503, {"error": "busy"})] * 2
    with Client(running["rest"], protocol="rest", retries=2) as client:
        assert client.call("serving_default", inputs)["valid"].all()
    running["web"].answers += [(503, {"error": "busy"})]
    options = {"protocol": "rest", "retries": 0}
    with Client(running["rest"], **options) as client, pytest.raises(Unavailable, match="busy"):
        client.call("serving_default", inputs)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_nobody_there_is_said_before_long(protocol):
    with Client("127.0.0.1:9", protocol=protocol, retries=1) as client:
        (answer,) = client.predict([b"x"])
    assert answer.error and not answer.outputs


def test_deadlines_hold(running):
    running["prediction"].delay = 5.0
    begin = time.monotonic()
    try:
        client = Client(running["grpc"], deadline=0.3)
        with client, pytest.raises(Refused, match="deadline"):
            client.call("serving_default", {"image_bytes": [b""]})
        assert time.monotonic() - begin < 4
    finally:
        running["prediction"].delay = 0.0


def test_a_canary_is_judged_by_the_same_requests(running, tmp_path, capsys):
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(encode(draw_picture(number)))
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    asked = [f"--server={running['grpc']}", "--noprogress", "--format=json", str(tmp_path)]
    with pytest.raises(UserError, match="must not be promoted"):
        judge([*asked, "--canary=2"])
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["outcome"] == "refuse" and verdict["failed"] == [1, 1]
    assert verdict["low"] <= verdict["gain"] < 0 and not verdict["identical"]
    judge([*asked[:2], "--margin=99", str(tmp_path)])
    assert "the canary may be promoted" in capsys.readouterr().out
    with pytest.raises(UserError, match="no version beta"):
        judge([*asked, "--canary=beta"])


def test_versions_switch_under_load_without_a_failure(models, loaded, tmp_path):
    import grpc
    from google.protobuf import text_format
    from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub

    def reload(stub, **labels):
        versions = {label: {"faceattr": version} for label, version in labels.items()}
        export.write_deployment(models, tmp_path, **versions, overwrite=True)
        request = ReloadConfigRequest()
        text_format.Parse((tmp_path / "config" / "models.config").read_text(), request.config)
        stub.HandleReloadConfigRequest(request)

    server, port, _ = start(models, "faceattr", {"stable": 1})
    inputs = {"image_bytes": [encode(draw_picture(1))]}
    name = "attributes_probability"
    values = {
        version: expected_answers(loaded, version, "serving_default", inputs)[name]
        for version in (1, 2)
    }
    stop = threading.Event()
    seen = {"stable": ([], []), "": ([], [])}  # The answers of two clients each, oldest first.

    def ask(label, answers):
        with Client(f"127.0.0.1:{port}", label=label, retries=0) as client:
            while not stop.is_set():
                found = client.call("serving_default", inputs)[name]
                answers.append([v for v in values if np.allclose(found, values[v], atol=1e-5)])

    with (
        concurrent.futures.ThreadPoolExecutor(4) as pool,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = ModelServiceStub(channel)
        asking = [pool.submit(ask, label, one) for label in seen for one in seen[label]]

        def all_answer(label, version):
            return all(answers[-1:] == [[version]] for answers in seen[label])

        def wait_for(condition):
            """Until it is so, or a request has failed, which `result` raises in the end."""
            while not condition() and not any(one.done() for one in asking):
                time.sleep(0.02)

        try:
            wait_for(lambda: all_answer("stable", 1) and all_answer("", 1))
            with pytest.raises(grpc.RpcError, match="not currently available"):
                reload(stub, stable=2)  # at one leap, which a running server does not follow
            shutil.rmtree(tmp_path)
            export.write_deployment(models, tmp_path, stable={"faceattr": 1})
            reload(stub, canary=2)
            wait_for(lambda: all_answer("", 2))
            assert all_answer("stable", 1)
            reload(stub, stable=2)
            wait_for(lambda: all_answer("stable", 2))
        finally:
            stop.set()
        for one in asking:
            one.result()  # raises where a request failed
    server.stop(None)
    for answers in itertools.chain(*seen.values()):
        versions = [version for version, *others in answers if not others]
        assert len(versions) == len(answers)  # Each is that of one version.
        assert versions[0] == 1 and versions[-1] == 2 and versions == sorted(versions)


def test_status_and_shutdown(models):
    import grpc
    from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
    from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub

    server, port, prediction = start(models, "faceattr", {"stable": 1, "canary": 2})
    request = GetModelStatusRequest()
    request.model_spec.name = "faceattr"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        found = ModelServiceStub(channel).GetModelStatus(request).model_version_status
    assert [status.version for status in found] == [1, 2]
    prediction.delay = 0.5
    inputs = {"image_bytes": [encode(draw_picture(1))]}
    with Client(f"127.0.0.1:{port}", retries=0) as client:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            running = pool.submit(client.call, "serving_default", inputs)
            while not prediction.requests:
                time.sleep(0.02)
            server.stop(grace=60)
            assert running.result()["valid"].all()  # what is under way is answered
        with pytest.raises(Unavailable):
            client.call("serving_default", inputs)


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_connection_can_be_encrypted(models, tmp_path, protocol):
    import grpc

    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    pair = (key.read_bytes(), certificate.read_bytes())
    server, port, prediction = start(
        models, "faceattr", {"stable": 1}, grpc.ssl_server_credentials([pair])
    )
    if protocol == "rest":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        web, port = start_rest(prediction.versions, context)
    data, options = [encode(draw_picture(1))], {"protocol": protocol, "retries": 0}
    with Client(f"localhost:{port}", certificate=str(certificate), **options) as client:
        assert not next(client.predict(data)).error
    options["deadline"] = 5
    for unsafe in ({"tls": True}, {}):  # signed by nobody that is known; not encrypted
        with Client(f"localhost:{port}", **unsafe, **options) as client:
            assert next(client.predict(data)).error
    server.stop(None)
    if protocol == "rest":
        web.shutdown()
        web.server_close()


@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_command_prints_names_and_lists_failures(running, models, tmp_path, protocol, capsys):
    for index in range(3):
        (tmp_path / f"{index}.jpg").write_bytes(encode(draw_picture(index)))
    flags = [f"--server={running[protocol]}", f"--protocol={protocol}", "--version=1"]
    described = f"--description={models / 'faceattr' / '1'}"
    main([*flags, described, "--format=jsonl", str(tmp_path)])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [str(tmp_path / f"{i}.jpg") for i in range(3)]
    assert set(rows[0]["attributes"]) == {"Male", "Smiling", "Eyeglasses"}
    assert set(rows[0]["attributes"]["Male"]) == {"probability", "label"}
    assert rows[0]["pose"]["label"] in rows[0]["pose"]["probabilities"]
    assert set(rows[0]["landmarks"]) >= {"left_eye", "nose"}
    (tmp_path / "1.jpg").write_bytes(encode(draw_picture(1))[:-200])
    (tmp_path / "3.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="2 of 4 images got no answer"):
        main([*flags, described, str(tmp_path)])
    output = capsys.readouterr()
    assert f"{tmp_path / '3.jpg'}: not an image of a format that is read" in output.err
    assert len(output.out.splitlines()) == 2
    assert any(pose in output.out for pose in rows[0]["pose"]["probabilities"])
    assert f"{tmp_path / '1.jpg'}: no image that the model takes" in output.err
    main([*flags, str(tmp_path / "0.jpg")])  # the version that answers names them itself
    assert output.out.splitlines()[0] == capsys.readouterr().out.strip()


def test_the_command_finds_faces_itself(running, tmp_path, monkeypatch, capsys):
    class Found:
        def __call__(self, pictures):
            return [[Detection(np.float32([3, 4, 15, 16]), 0.9, np.full([5, 2], np.nan, np.float32))]
                    if picture.mean() else [] for picture in pictures]  # fmt: skip

    monkeypatch.setattr("data_pipelines.detection.mtcnn.Detector", Found)
    (tmp_path / "face.jpg").write_bytes(encode(draw_picture(0)))
    (tmp_path / "none.png").write_bytes(encode(np.zeros([40, 40, 3], np.uint8)))
    flags = [f"--server={running['grpc']}", "--detect", str(tmp_path)]
    with pytest.raises(UserError, match="1 of 2 images got no answer"):
        main(flags)
    output = capsys.readouterr()
    assert output.out.startswith(f"{tmp_path / 'face.jpg'}  at (3, 4) 15 x 16: ")
    assert f"{tmp_path / 'none.png'}: no face was found" in output.err
    with pytest.raises(UserError, match="asks the signature crop"):
        main([*flags, "--signature=features"])
    main([*flags[:-1], "--format=jsonl", str(tmp_path / "face.jpg")])
    assert json.loads(capsys.readouterr().out)["box"] == [3, 4, 15, 16]


def test_a_model_of_whole_pictures_is_not_asked_about_their_faces(monkeypatch):
    description = {"crop": Crop("none", 12, 10).to_dict()}  # as one of an earlier version
    monkeypatch.setattr(Client, "description", lambda _: description)
    with Client("127.0.0.1:1") as client, pytest.raises(UserError, match="the same of all faces"):
        next(client.predict(["photo.jpg"], detector=len))


def test_what_the_model_does_not_take_is_not_sent_and_has_one_reason(running, tmp_path):
    (tmp_path / "large.png").write_bytes(encode(np.full([80, 100, 3], 99, np.uint8), ".png"))
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").write_text("")
    (tmp_path / "face.png").write_bytes(encode(draw_picture(0), ".png"))
    files = sorted(tmp_path.iterdir())

    def detector(pictures):
        face = Detection(np.float32([3, 4, 15, 16]), 0.9, np.full([5, 2], np.nan, np.float32))
        return [[face, face] for _ in pictures]

    sent = []
    with Client(running["grpc"]) as client:
        call = client.call

        def listen(signature, inputs):
            if signature != "description":  # which is asked for once, where there is a detector
                sent.append(len(inputs["image_bytes"]))
            return call(signature, inputs)

        client.call = listen
        for signature, found, faces in (("serving_default", None, 1), ("crop", detector, 2)):
            answers = list(
                client.predict(files, signature=signature, detector=found, max_pixels=4000)
            )
            reasons = [answer.error for answer in answers if answer.error]
            assert len(answers) == 3 + faces and len(reasons) == 3
            assert "it is empty" in reasons[0] and "it begins with b'no pictu'" in reasons[2]
            assert "100 x 80 pixels by its header, more than --max_pixels=4000" in reasons[1]
    assert sent == [1, 2]


def test_the_line_of_an_answer_has_values_too():
    answer = {"age": {"years": 31.26}, "attributes": {"Hat": {"probability": 0.9, "label": True}}}
    assert summary(answer) == "years 31.3, Hat 0.90"


def other(description, **changes):
    tasks = [dict(task) for task in description["tasks"]]
    for name, change in changes.items():
        tasks[0][name] = change(tasks[0][name])
    return description | {"tasks": tasks}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": lambda labels: labels[::-1]},
            "labels .* has 'Eyeglasses' in place 1 there, 'Ma",
        ),
        (
            {"labels": lambda labels: labels[:2]},
            "labels of task 'attributes' has 2 entries there, 3",
        ),
        ({"kind": lambda _: "regression"}, "kind of task 'attributes' is 'regression' there, 'mul"),
    ],
)
@pytest.mark.parametrize("protocol", ["grpc", "rest"])
def test_the_description_of_another_model_is_refused(
    running, models, tmp_path, capsys, changes, message, protocol
):
    (tmp_path / "0.jpg").write_bytes(encode(draw_picture(0)))
    described = other(read_description(models / "faceattr" / "1"), **changes)
    (tmp_path / "other.json").write_text(json.dumps(described))
    flags = [f"--server={running[protocol]}", f"--protocol={protocol}"]
    with pytest.raises(UserError, match=f"other.json describes another model .*{message}") as error:
        main([*flags, f"--description={tmp_path / 'other.json'}", str(tmp_path / "0.jpg")])
    assert "\n" not in str(error.value) and not capsys.readouterr().out


def test_without_a_served_description_the_number_of_labels_is_compared(models):
    description = read_description(models / "faceattr" / "1")
    outputs = {"attributes_probability": np.zeros(2), "attributes_label": np.zeros(2, int)}
    with pytest.raises(UserError, match="3 labels of task 'attributes', the answer 2"):
        named(outputs, description)


@pytest.mark.parametrize(
    "answer",
    [b"<html><body>Welcome to nginx</body></html>", {"outputs": [1]}, {"predictions": []}, [], b""],
)
def test_what_no_tensorflow_serving_answers_is_refused(running, answer):
    running["web"].answers = [(200, answer)]
    text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    with Client(running["rest"], protocol="rest") as client, pytest.raises(Refused) as error:
        client.call("serving_default", {"image_bytes": [b""]})
    assert "no answer of TensorFlow Serving but" in str(error.value)
    assert repr(text.decode()[:80]) in str(error.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8501", "127.0.0.1", "127.0.0.1:8501/v1", ""])
def test_an_address_is_a_host_and_a_port(address):
    with pytest.raises(UserError, match=r"server .*: expected HOST:PORT"):
        Client(address, protocol="rest")


@pytest.mark.parametrize("kind", ["WebP", "animated GIF", "BMP with a palette", "TIFF"])
def test_other_formats_are_answered_as_their_pixels(running, loaded, kind):
    expected = expected_answers(
        loaded, 2, "serving_default", {"image_bytes": [encode(decode(KINDS[kind]), ".png")]}
    )
    with Client(running["grpc"]) as client:
        (answer,) = client.predict([KINDS[kind]])
    found = {name: values[None] for name, values in answer.outputs.items()}
    # A copy of WebP is a JPEG of high quality; the points are in pixels.
    tolerance = 1.0 if kind == "WebP" else 1e-4
    for name, values in found.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(values, expected[name], atol=tolerance, err_msg=name)


def test_turned_photographs_stay_small_and_requests_bounded_by_bytes(
    running, monkeypatch, tmp_path
):
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    data = encode(draw_picture(3, 600, 480))
    turned = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    sent = []

    def call(signature, inputs):
        sent.append(inputs["image_bytes"])
        return {"valid": np.zeros(len(sent[-1]), bool)}

    monkeypatch.setattr("export.client.BATCH_BYTES", 2 * len(turned) + 10)
    with Client(running["grpc"], batch_size=4, concurrency=1) as client:
        monkeypatch.setattr(client, "call", call)
        (tmp_path / "a.jpg").write_bytes(turned)
        list(client.predict([turned, turned, str(tmp_path / "a.jpg"), b"x", b"y"]))
    assert sorted(map(len, sent)) == [2, 3]
    assert all(image[:2] == b"\xff\xd8" for image in sent[0]) and len(sent[0][0]) < 4 * len(turned)
    assert read_header(sent[0][0]).width == 600


def test_names_need_a_description_of_the_model(models, tmp_path):
    description = read_description(models / "faceattr" / "1")
    outputs = {"pose_probability": np.array([0.1, 0.9, 0, 0, 0]), "pose_label": np.int32(1)}
    found = named(outputs, description)
    assert found["pose"]["label"] == description["tasks"][1]["labels"][1]
    assert named({"embedding": np.array([1.0, np.nan])}, None) == {"embedding": [1.0, None]}
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="no description of an exported model"):
        read_description(tmp_path / "x.json")
    with pytest.raises(UserError, match="absent: No such file"):
        read_description(tmp_path / "absent")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "udp"}, "protocol 'udp' is none of grpc, rest"),
        ({"version": 1, "label": "stable"}, "expected one of them"),
        ({"batch_size": 0}, "batch size 0: expected at least 1"),
        ({"certificate": "absent.pem"}, "absent.pem: no such certificate"),
    ],
)
def test_mistakes_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        Client("127.0.0.1:1", **options)
