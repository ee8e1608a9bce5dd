"""Reporting a run to TensorBoard."""

import io
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from loopwright.extras import require
from loopwright.trackers.base import Tracker, trackers


@trackers.register("tensorboard")
class TensorBoard(Tracker):
    """Writes the files that TensorBoard shows, in `tensorboard/` of the run's folder.

    Settings and tags are texts there, and files lie beside, in `assets/`.

    Args:
        folder: another folder for the files.
    """

    extra: ClassVar[str | None] = "tensorboard"

    def __init__(self, folder: str | None = None) -> None:
        # torch's SummaryWriter has a thread of its own, whose errors nobody gets to see in time.
        self._make = require("torch.utils.tensorboard.summary", "tensorboard")
        self._event = require("tensorboard.compat.proto.event_pb2", "tensorboard").Event
        self._summary = require("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
        writer = require("tensorboard.summary.writer.record_writer", "tensorboard")
        self._write_record = writer.RecordWriter
        self._chosen = folder
        self._folder = Path()
        self._file = Path()

    def start(self, run_id: str, logdir: str) -> None:
        self._folder = Path(self._chosen or Path(logdir, "tensorboard"))
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = self._folder / name
        self._append(file_version="brain.Event:2")
        self.log_tag("run_id", run_id)

    def log_tag(self, name: str, value: Any) -> None:
        self._append(summary=self._make.text(f"tags/{name}", str(value)))

    def log_param(self, name: str, value: Any, step: int | None = None) -> None:
        self._append(summary=self._make.text(f"parameters/{name}", str(value)), step=step)

    def log_metric(self, name: str, value: float, step: int | None = None) -> None:
        self._append(summary=self._make.scalar(name, value), step=step)

    def log_image(self, name: str, path: str) -> None:
        self._append_image(name, Path(path).read_bytes())

    def log_figure(self, name: str, figure: Any) -> None:
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png")
        self._append_image(name, drawn.getvalue())

    def log_asset(self, name: str, path: str) -> None:
        place = self._folder / "assets" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)

    def _append_image(self, name: str, png: bytes) -> None:
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # its header
        image = self._summary.Image(encoded_image_string=png, width=width, height=height)
        self._append(summary=self._summary(value=[self._summary.Value(tag=name, image=image)]))

    def _append(self, **content: Any) -> None:
        """Append an event; where the disk is full the file stays as it was."""
        record = io.BytesIO()
        event = self._event(wall_time=time.time(), **content)
        self._write_record(record).write(event.SerializeToString())
        size = self._file.stat().st_size if self._file.exists() else 0
        try:
            with self._file.open("ab") as file:
                file.write(record.getvalue())
        except OSError:
            with suppress(OSError):
                os.truncate(self._file, size)
            raise
