"""Files appear whole or not at all."""

import errno
import os

import pytest

from w4s_jax.files import sync_folder, write_whole


def test_a_text_and_bytes_are_written_to_the_byte_in_a_folder_that_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "text.json"
    write_whole(path, "é\r\n\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n\n"
    write_whole(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(path.parent) == ["text.json"]


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, broken):
    path = tmp_path / "summary.json"
    write_whole(path, "before")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if broken == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "after")
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["summary.json"]


def test_file_and_folder_are_synced_and_the_file_before_it_gets_its_name(tmp_path, monkeypatch):
    steps = []
    fsync, path = os.fsync, tmp_path / "x"
    monkeypatch.setattr(os, "fsync", lambda file: (steps.append((os.fstat(file).st_ino, path.exists())), fsync(file)))
    write_whole(path, "x")
    assert steps == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_folder_that_is_not_there_cannot_be_synced(tmp_path):
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "gone")
