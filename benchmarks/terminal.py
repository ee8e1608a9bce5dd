"""Runs a command as a person would: on a terminal of 120 columns, so that bars really draw."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Mapping

KEPT_CHARACTERS = 1500


def run_in_terminal(
    command: list[str], folder: str, environment: Mapping[str, str], *, terminal: bool
) -> str:
    """Runs `command` in `folder`; returns the end of what it printed.

    Without `terminal` only errors are kept and everything else goes to /dev/null.
    """
    if not terminal:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        return done.stderr[-KEPT_CHARACTERS:]
    import fcntl
    import termios

    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
    )
    os.close(writer)
    try:
        return drain(reader)
    finally:
        os.close(reader)
        process.wait()


def drain(reader: int) -> str:
    """Reads until the last writer has closed the terminal; returns the end of the text."""
    text = b""
    while True:
        try:
            piece = os.read(reader, 65536)
        except OSError:  # how Linux reports that nobody holds the other end any more
            break
        if not piece:
            break
        text = (text + piece)[-KEPT_CHARACTERS:]
    return text.decode(errors="replace")
