"""Files that are whole or absent: a reader, a kill or a full disk never leaves half of one.

text or bytes → **write_whole** → `.NAME.<pid>.<thread>.partial` → sync → rename → sync of the folder

Standard library only, and errors stay OSErrors: the caller names what could not be written, and what to do.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file that appears whole or not at all, and outlives a power cut once this returns.

    Args:
        path: Of the file; its folder is made, and a file that stands there is replaced.
        content: Text, written as UTF-8 with its line ends as they are, or bytes.

    Raises:
        OSError: The disk is full, or the folder cannot be written; what stood there before is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    with contextlib.ExitStack() as stack:
        stack.callback(partial.unlink, missing_ok=True)
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder, a new file's among them, outlive a power cut.

    Raises:
        OSError: The folder cannot be opened or synced.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
