"""The prediction server: a real one, asked by real clients over real connections."""

import asyncio
import http.client
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("pydantic")
pytest.importorskip("sklearn")
uvicorn = pytest.importorskip("uvicorn")
image_module = pytest.importorskip("PIL.Image")

from loopwright.artifact import read_artifact  # noqa: E402
from loopwright.experiment import Experiment  # noqa: E402
from loopwright.serving import Batcher, make_server  # noqa: E402

Answer = tuple[int, Any]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for name in ("digits", "iris", "diabetes"):
            experiment = Experiment(
                dataset={"dataset": name, "preprocessors": ["standard_scaler"]},
                model={"model": "mlp", "training": {"epochs": 2}},
                run={"seed": 0, "threads": 1},
            )
            experiment.train()
            experiment.save(f"{name}.zip")
    finally:
        os.chdir(before)
    return {name: folder / f"{name}.zip" for name in ("digits", "iris", "diabetes")}


class Client:
    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self.port, self.headers = port, headers or {}

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, self.headers | given)
            answer = connection.getresponse()
            content = answer.read().decode()
            is_json = (answer.getheader("content-type") or "").startswith("application/json")
            return answer.status, json.loads(content) if is_json else content
        finally:
            connection.close()

    def predict(self, body: Any, content_type: str = "application/json") -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send("POST", "/predict", data, content_type=content_type)


@contextmanager
def serving(path: Path, **options: Any) -> Iterator[Client]:
    app = make_server(read_artifact(path), **options)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def iris(artifacts: dict[str, Path]) -> Iterator[Client]:
    with serving(artifacts["iris"], max_bytes=20_000) as client:
        yield client


@pytest.fixture(scope="module")
def samples(artifacts: dict[str, Path]) -> np.ndarray:
    values: np.ndarray = Experiment.load(artifacts["iris"]).dataset.dataset.tensors()[0].numpy()
    return values


def test_json_gives_predictions_labels_and_probabilities(
    iris: Client, artifacts: dict[str, Path], samples: np.ndarray
) -> None:
    """Labels are those of predict, values within 1e-6 of predict_proba's."""
    loaded = Experiment.load(artifacts["iris"])
    status, answer = iris.predict({"inputs": samples[:100].tolist()})
    assert status == 200
    assert answer["predictions"] == loaded.predict(samples[:100]).tolist()
    names = ("setosa", "versicolor", "virginica")
    assert answer["labels"] == [names[index] for index in answer["predictions"]]
    expected = loaded.predict_proba(samples[:100])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-6)


def test_an_estimator_of_scikit_learn_is_served_as_a_network_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: np.ndarray
) -> None:
    pytest.importorskip("skops")
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(
        dataset={"dataset": "iris"}, model={"model": "gradient_boosting_classifier"}
    )
    experiment.train()
    experiment.save("model.zip")
    with serving(tmp_path / "model.zip") as client:
        status, answer = client.predict({"inputs": samples.tolist()})
    assert status == 200
    assert answer["predictions"] == experiment.predict(samples).tolist()
    np.testing.assert_allclose(
        answer["probabilities"], experiment.predict_proba(samples), atol=1e-6
    )


def test_numbers_that_an_estimator_refuses_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("skops")
    monkeypatch.chdir(tmp_path)
    experiment = Experiment(dataset={"dataset": "iris"}, model={"model": "logistic_regression"})
    experiment.train()
    experiment.save("model.zip")
    with serving(tmp_path / "model.zip") as client:
        status, answer = client.predict(b'{"inputs": [[1,1,1,1], [NaN,1,1,1]]}')
    assert (status, "Sample 1 has a number that is not finite" in answer["detail"]) == (422, True)


def test_csv_with_and_without_names(iris: Client, samples: np.ndarray) -> None:
    rows = "\n".join(",".join(map(str, row)) for row in samples[:3].tolist())
    expected = iris.predict({"inputs": samples[:3].tolist()})
    assert iris.predict(rows.encode(), "text/csv") == expected
    assert iris.predict(f"a,b,c,d\r\n{rows}\r\n".encode(), "text/csv; charset=utf-8") == expected


def form(*images: bytes) -> tuple[bytes, str]:
    parts = [
        b'--XX\r\nContent-Disposition: form-data; name="image"; filename="i.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + image + b"\r\n"
        for image in images
    ]
    return b"".join(parts) + b"--XX--\r\n", "multipart/form-data; boundary=XX"


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    image_module.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def test_images_are_read_in_the_size_and_colours_of_the_data(artifacts: dict[str, Path]) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    coloured = np.repeat(np.kron(grey, np.ones((4, 4), dtype=np.uint8))[..., None], 3, axis=2)
    with serving(artifacts["digits"]) as client:
        expected = client.predict({"inputs": [[grey.tolist()]] * 2})
        assert client.predict(*form(png(grey), png(grey))) == expected
        status, answer = client.predict(*form(png(coloured)))
        assert status == 200
        assert len(answer["predictions"]) == 1


def test_numbers_are_predicted_without_labels(artifacts: dict[str, Path]) -> None:
    with serving(artifacts["diabetes"]) as client:
        status, answer = client.predict({"inputs": [[0.0] * 10]})
        expected = Experiment.load(artifacts["diabetes"]).predict(np.zeros((1, 10)))
        assert (status, answer.keys()) == (200, {"predictions"})
        np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-6)


def test_texts_are_answered_with_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Translations and continuations; the description takes a text for a sample."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("to be or not to be. " * 9)
    sequences: dict[str, Any] = {
        "seq2seq": (
            {"type": "reversal", "num_samples": 40, "max_length": 5},
            ["characters"],
            {"type": "rnn_seq2seq", "width": 8},
        ),
        "language_model": (
            {"type": "text_files", "path": "text.txt", "block_length": 6},
            [],
            {"type": "gpt", "width": 8, "heads": 1, "layers": 1},
        ),
    }
    for objective, (dataset, preprocessors, model) in sequences.items():
        experiment = Experiment(
            dataset={"dataset": dataset, "preprocessors": preprocessors},
            model={"model": model, "training": {"objective": objective}},
            run={"seed": 0, "threads": 1},
        )
        experiment.train()
        experiment.save("model.zip", licence="MIT")
        texts = ["abe"] if objective == "seq2seq" else ["to be", "not"]
        with serving(tmp_path / "model.zip") as client:
            status, answer = client.predict({"inputs": texts})
            assert status == 200
            assert answer == {"predictions": experiment.predict(texts).tolist()}
            assert client.predict({"inputs": []}) == (200, {"predictions": []})
            assert client.predict({"inputs": [[0.5]]})[0] == 422
            if objective == "language_model":
                status, answer = client.predict({"inputs": [[-1] * 6]})
                assert (status, "Sample 0 has no token" in answer["detail"]) == (422, True)
            if objective == "seq2seq":
                status, answer = client.predict({"inputs": ["abcdef" * 40]})
                assert (status, "characters.max_length" in answer["detail"]) == (422, True)
            info = client.send("GET", "/info")[1]
            assert "text" in info["output"]["description"]
            body = client.send("GET", "/openapi.json")[1]["paths"]["/predict"]["post"]
            schema = body["requestBody"]["content"]["application/json"]["schema"]
            assert schema["properties"]["inputs"]["items"] == {"type": "string"}


def test_no_samples_give_no_predictions(iris: Client) -> None:
    answer = {"predictions": [], "labels": [], "probabilities": []}
    assert iris.predict({"inputs": np.zeros((0, 4)).tolist()})[0] == 422  # [] has no second size
    assert iris.predict(b"a,b,c,d\n", "text/csv") == (200, answer)


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"{", "application/json", "no JSON"),
        (b"[" * 9000, "application/json", "no JSON"),
        (b"[[1,2,3,4]]", "application/json", 'Expected {"inputs"'),
        (b'{"inputs": [[1,2,3]]}', "application/json", r"shape (1, 3), expected (samples, 4)"),
        (b'{"inputs": [[1,2,3,4],[1]]}', "application/json", "no numbers of one shape"),
        (b'{"inputs": [["a","b","c","d"]]}', "application/json", "no numbers"),
        (b'{"inputs": [[NaN,1,1,1]]}', "application/json", "no finite number for sample 0"),
        (b'{"inputs": [[null,1,1,1]]}', "application/json", "no numbers"),
        (b'{"inputs": "text"}', "application/json", "no numbers"),
        (b"1,2,3\n", "text/csv", "Row 1 has 3 values; expected 4"),
        (b"1,2,3,4\n1,2,x,4\n", "text/csv", "Row 2"),
        (b"\xff\xfe", "text/csv", "no text in UTF-8"),
        (b"x", "application/x-pickle", "content type is 'application/x-pickle'"),
        (form(b"no image")[0], "multipart/form-data; boundary=XX", "which is no image of"),
        (b"--XX--\r\n", "multipart/form-data; boundary=XX", "holds no file"),
        (b"garbage", "multipart/form-data", "The form cannot be read"),
    ],
)
def test_bad_input_is_answered_with_the_reason(
    iris: Client, body: bytes, content_type: str, reason: str
) -> None:
    status, answer = iris.predict(body, content_type)
    assert (status, reason in str(answer["detail"])) == (422, True), answer
    assert "Traceback" not in str(answer)
    assert iris.send("GET", "/health") == (200, {"status": "ok"})


def test_a_file_that_is_no_image_is_told(artifacts: dict[str, Path]) -> None:
    with serving(artifacts["digits"]) as client:
        for content in (b"", b"no image", png(np.zeros((8, 8), dtype=np.uint8))[:40]):
            status, answer = client.predict(*form(content))
            assert status == 422
            assert "no image that can be read" in answer["detail"]


def test_oversized_requests_are_refused_while_they_come(iris: Client) -> None:
    status, answer = iris.predict(b" " * 30_000)
    assert (status, "20000 bytes at most" in answer["detail"]) == (413, True)
    connection = http.client.HTTPConnection("127.0.0.1", iris.port, timeout=30)
    connection.request("POST", "/predict", iter([b" " * 15_000] * 3), encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_failing_model_shows_no_traceback_and_the_server_goes_on(
    artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from loopwright.fitted import Fitted

    with serving(artifacts["iris"]) as client:

        def fail(error: type[Exception], *args: Any) -> None:
            raise error("a secret")

        for place, error in ((Fitted, RuntimeError), (torch.nn.Linear, ValueError)):
            with monkeypatch.context() as patch:
                patch.setattr(place, "forward", partial(fail, error))
                status, answer = client.predict({"inputs": [[1, 2, 3, 4]]})
            assert (status, answer) == (500, {"detail": "The server failed; its log says why."})
            assert client.predict({"inputs": [[1, 2, 3, 4]]})[0] == 200


def test_a_token_is_asked_for(artifacts: dict[str, Path]) -> None:
    with serving(artifacts["iris"], token="open sesame") as client:
        body = json.dumps({"inputs": [[1, 2, 3, 4]]}).encode()
        for headers in ({}, {"authorization": "Bearer no"}, {"authorization": "open sesame"}):
            assert client.send("POST", "/predict", body, **headers)[0] == 401
        assert client.send("GET", "/info")[0] == 401
        assert client.send("GET", "/metrics")[0] == 401
        assert client.send("GET", "/health")[0] == 200
        right = {"authorization": "Bearer open sesame"}
        assert client.send("POST", "/predict", body, **right)[0] == 200


def test_info_health_and_the_description(iris: Client) -> None:
    status, info = iris.send("GET", "/info")
    assert status == 200
    assert info["input"] == {"shape": [4], "dtype": "float32"}
    assert info["output"] == {"labels": ["setosa", "versicolor", "virginica"]}
    assert info["metrics"]["test_accuracy"] > 0
    _, description = iris.send("GET", "/openapi.json")
    content = description["paths"]["/predict"]["post"]["requestBody"]["content"]
    row = content["application/json"]["schema"]["properties"]["inputs"]["items"]
    assert (row["minItems"], row["maxItems"], row["items"]) == (4, 4, {"type": "number"})
    assert "multipart/form-data" not in content


def test_metrics_count_what_was_answered(artifacts: dict[str, Path]) -> None:
    with serving(artifacts["iris"]) as client:
        client.predict({"inputs": [[1, 2, 3, 4]] * 5})
        client.predict(b"{")
        _, text = client.send("GET", "/metrics")
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['loopwright_predict_requests_total{status="200"}'] == "1"
    assert lines['loopwright_predict_requests_total{status="422"}'] == "1"
    assert lines["loopwright_predict_samples_total"] == "5"
    assert lines["loopwright_predict_seconds_count"] == "2"


def test_many_clients_each_get_their_own_answers(
    artifacts: dict[str, Path], samples: np.ndarray
) -> None:
    expected = Experiment.load(artifacts["iris"]).predict_proba(samples)

    with serving(artifacts["iris"]) as client:

        def ask(row: int) -> float:
            status, answer = client.predict({"inputs": samples[row : row + 1].tolist()})
            assert status == 200
            return float(np.abs(np.array(answer["probabilities"][0]) - expected[row]).max())

        with ThreadPoolExecutor(16) as pool:
            differences = list(pool.map(ask, [row % 150 for row in range(300)]))
    assert max(differences) < 1e-6


def test_requests_that_wait_go_through_the_model_together(artifacts: dict[str, Path]) -> None:
    """The first goes at once; those that come meanwhile share batches of at most 8 samples."""
    fitted = read_artifact(artifacts["iris"]).fitted
    sizes: list[int] = []

    def slowly(inputs: torch.Tensor) -> dict[str, list[Any]]:
        sizes.append(len(inputs))
        time.sleep(0.02)
        return {"inputs": inputs[:, 0].tolist(), "outputs": fitted.forward(inputs).tolist()}

    batcher = Batcher(slowly, max_batch_size=8)

    async def ask() -> list[dict[str, list[Any]]]:
        rows = [torch.full((size, 4), float(size)) for size in (1, 3, 3, 3, 20, 1)]
        first = asyncio.create_task(batcher.run(rows[0]))
        await asyncio.sleep(0.005)
        return [await first, *await asyncio.gather(*(batcher.run(each) for each in rows[1:]))]

    answers = asyncio.run(ask())
    batcher.close()
    assert sizes == [1, 6, 3, 20, 1]
    assert [each["inputs"] for each in answers] == [
        [float(size)] * size for size in (1, 3, 3, 3, 20, 1)
    ]
    assert [len(each["outputs"]) for each in answers] == [1, 3, 3, 3, 20, 1]
    assert batcher.num_batches == 5


def test_a_request_that_fails_takes_no_other_along() -> None:
    def predict(texts: Any) -> dict[str, list[Any]]:
        time.sleep(0.02)
        if "bad" in texts:
            raise ValueError("no")
        return {"lengths": [len(text) for text in texts]}

    batcher = Batcher(predict)

    async def ask() -> list[Any]:
        first = asyncio.create_task(batcher.run(["first"]))
        await asyncio.sleep(0.005)
        waiting = (batcher.run([text]) for text in ("a", "bad", "abc"))
        return [await first, *await asyncio.gather(*waiting, return_exceptions=True)]

    answers = asyncio.run(ask())
    batcher.close()
    assert isinstance(answers.pop(2), ValueError)
    assert answers == [{"lengths": [5]}, {"lengths": [1]}, {"lengths": [3]}]


@pytest.mark.system
def test_the_command_serves_and_ends(artifacts: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loopwright", "serve", str(artifacts["iris"]), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "running on" in line)
        assert "http://127.0.0.1:" in line
        client = Client(int(line.split("127.0.0.1:")[1].split()[0]))
        assert client.predict({"inputs": [[1, 2, 3, 4]]})[0] == 200
        process.terminate()
        process.stderr.read()
    assert process.returncode in (0, -15)
