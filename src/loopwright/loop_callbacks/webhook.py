"""Telling a web address how training goes."""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from loopwright.loop_callbacks.base import AbstractCallback
from loopwright.loop_callbacks.trackers import latest_metrics
from loopwright.plain_values import mask_secrets, to_plain


class WebhookNotification(AbstractCallback):
    """Posts JSON to an address after each epoch and after training.

    The object has `text` (which chat services show), `event` ("epoch_end" or "train_end"),
    `project`, `experiment`, `epoch` and `metrics`; after training also `hyperparameters`, with
    secrets masked. It is sent beside training, in order; a server that fails or hangs is told about
    on stderr and holds up nothing but the end of training, for two timeouts at most.

    Args:
        url: An http or https address. It is never printed, since it may hold a secret.
        project_name: None takes the loop's, if it has one.
        experiment_name: Likewise.
        headers: Further headers of the request.
        timeout_seconds: For connecting and for each answer.

    Raises:
        ValueError: The address is of another kind.
    """

    def __init__(
        self,
        url: str,
        project_name: str | None = None,
        experiment_name: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = 10.0,
    ) -> None:
        super().__init__("Webhook", execution_order=98, device_idx_execution=0)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"A webhook needs an http or https address, and got one that begins with "
                f"{parts.scheme!r}."
            )
        self._url = url
        self.host = parts.hostname
        self.project_name = project_name
        self.experiment_name = experiment_name
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        self.timeout_seconds = timeout_seconds
        self._latest: threading.Thread | None = None

    def on_train_loop_registration(self) -> None:
        loop = self.train_loop_obj
        self.project_name = self.project_name or getattr(loop, "project_name", None)
        self.experiment_name = self.experiment_name or getattr(loop, "experiment_name", None)

    def on_epoch_end(self) -> None:
        self._send("epoch_end", f"Epoch {self.train_loop_obj.epoch} ended")

    def on_train_end(self) -> None:
        hyperparameters = getattr(self.train_loop_obj, "hyperparams", None)
        self._send(
            "train_end",
            f"Training ended after epoch {self.train_loop_obj.epoch}",
            hyperparameters=mask_secrets(to_plain(hyperparameters)),
        )
        assert self._latest is not None
        self._latest.join(2 * self.timeout_seconds)

    def _send(self, event: str, happened: str, **more: Any) -> None:
        metrics = latest_metrics(self.train_loop_obj.train_history, None)
        names = [name for name in (self.project_name, self.experiment_name) if name]
        lines = [f"{': '.join([*names, happened])}", *(f"{n}: {v:.6g}" for n, v in metrics.items())]
        content = {
            "text": "\n".join(lines),
            "event": event,
            "project": self.project_name,
            "experiment": self.experiment_name,
            "epoch": self.train_loop_obj.epoch,
            "metrics": to_plain(metrics),
            **more,
        }
        body = json.dumps(content).encode()
        sender = threading.Thread(
            target=self._post_after, args=(self._latest, body), name="webhook", daemon=True
        )
        self._latest = sender
        sender.start()

    def _post_after(self, earlier: threading.Thread | None, body: bytes) -> None:
        if earlier is not None:
            earlier.join()
        try:
            request = urllib.request.Request(self._url, body, self.headers, method="POST")
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as answer:
                answer.read()
        except Exception as error:  # whatever fails there must not reach training
            print(
                f"The webhook at {self.host} failed, and training goes on: "
                f"{type(error).__name__}: {error}",
                file=sys.stderr,
            )
