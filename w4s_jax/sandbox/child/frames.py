"""Frames of the sandbox's protocol: four bytes of length, then that much JSON.

agent ─ write_frame ─ socket ─ pool   (and back)

JSON cannot carry code or types, so a hostile sender can at worst send wrong data.
"""

from __future__ import annotations

import json
import os
import struct
from typing import Any

HEADER = struct.Struct("!I")
MAX_REQUEST = 2 << 20
"""Longest frame of a request, in bytes."""
MAX_FROM_POOL = 64 << 20
"""Longest job or reply, in bytes; they come from the pool."""


class FrameError(Exception):
    """The peer closed the connection or sent a frame that is too long."""


def encode(message: object) -> bytes:
    """Serialises one message with its header; NaN and what JSON lacks raise ValueError or TypeError."""
    body = json.dumps(message, allow_nan=False).encode("ascii")
    return HEADER.pack(len(body)) + body


def write_frame(fd: int, message: object) -> None:
    """Writes one message to a blocking descriptor."""
    write_all(fd, encode(message))


def write_all(fd: int, data: bytes) -> None:
    """Writes bytes to a blocking descriptor."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def read_frame(fd: int, most: int) -> Any:
    """Reads one message of at most `most` bytes from a blocking descriptor.

    Raises:
        FrameError: The peer is gone, or the frame is longer.
    """
    (length,) = HEADER.unpack(_read_exactly(fd, HEADER.size))
    if length > most:
        raise FrameError(f"a frame of {length} bytes exceeds {most}")
    return json.loads(_read_exactly(fd, length))


def _read_exactly(fd: int, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(fd, size - len(parts))
        if not part:
            raise FrameError("the peer closed the connection")
        parts += part
    return bytes(parts)
