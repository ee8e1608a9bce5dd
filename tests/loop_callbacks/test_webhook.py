"""The webhook against a real server on this machine: content, order, and failures without harm."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from loops import make_loop

from loopwright.loop_callbacks import WebhookNotification


class Server:
    """Answers every POST with `status`, after `delay` seconds, and keeps what it got."""

    def __init__(self) -> None:
        self.status, self.delay = 200, 0.0
        self.requests: list[tuple[dict[str, str], Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append((dict(self.headers), json.loads(body)))
                time.sleep(server.delay)
                self.send_response(server.status)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/secret-path"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.http.shutdown()
    found.http.server_close()


def test_epochs_and_the_end_are_posted_in_order(server: Server) -> None:
    loop = make_loop()
    loop.hyperparams = {"lr": 0.05, "api_key": "hush"}
    hook = WebhookNotification(server.url, "project", "trial", headers={"X-Mine": "yes"})
    loop.fit(num_epochs=3, callbacks=[hook])
    contents = [content for _, content in server.requests]
    assert [(c["event"], c["epoch"]) for c in contents] == [
        ("epoch_end", 0),
        ("epoch_end", 1),
        ("epoch_end", 2),
        ("train_end", 2),
    ]
    losses = [content["metrics"]["val_loss"] for content in contents[:3]]
    assert losses == loop.train_history["val_loss"]
    assert contents[0]["text"].startswith("project: trial: Epoch 0 ended\nloss: ")
    assert contents[3]["hyperparameters"] == {"lr": 0.05, "api_key": "***"}
    headers = server.requests[0][0]
    assert (headers["Content-Type"], headers["X-Mine"]) == ("application/json", "yes")


@pytest.mark.parametrize("status", [404, 500, 503])
def test_a_server_that_refuses_stops_nothing(
    status: int, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.status = status
    loop = make_loop()
    loop.fit(num_epochs=2, callbacks=[WebhookNotification(server.url)])
    assert len(loop.train_history["loss"]) == 2
    told = capsys.readouterr().err
    assert told.count("The webhook at 127.0.0.1 failed, and training goes on: HTTPError") == 3
    assert "secret-path" not in told


def test_a_server_that_is_not_there_stops_nothing(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.http.shutdown()
    server.http.server_close()
    loop = make_loop()
    loop.fit(num_epochs=1, callbacks=[WebhookNotification(server.url)])
    assert "URLError" in capsys.readouterr().err


def test_a_server_that_hangs_holds_up_the_end_alone(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each answer would take two seconds, and is waited for a fifth of one beside training."""
    server.delay = 2.0
    loop = make_loop()
    began = time.monotonic()
    loop.fit(num_epochs=1, callbacks=[WebhookNotification(server.url, timeout_seconds=0.2)])
    assert time.monotonic() - began < 2.0
    assert "failed, and training goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/a", "hooks.example.com", "http://"]
)
def test_only_web_addresses_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="needs an http or https address"):
        WebhookNotification(url)


def test_numbers_that_are_not_finite_make_valid_json(server: Server) -> None:
    loop = make_loop()
    loop.insert_metric_result_into_history("broken", float("nan"))
    loop.fit(num_epochs=1, callbacks=[WebhookNotification(server.url)])
    assert "broken" not in server.requests[0][1]["metrics"]
