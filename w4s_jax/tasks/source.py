"""Rows of a benchmark, from local files or from the Hugging Face hub.

--data_dir or hub → **rows with their place** → items → splits

`DIR/NAME/SPLIT.jsonl` (or `CONFIG_SPLIT.jsonl`; also `.jsonl.gz`, `.json`,
`.parquet`, `.csv`) with the hub's fields comes before the hub itself; NAME may be
spelt with `-` or `_`. Every row remembers its file and line, so that a bad one can
be named.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import gzip
import json
import logging
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w4s_jax.errors import first_line
from w4s_jax.types import InputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet", ".csv")
"""Of files that can be read."""

_UTF8 = "utf-8-sig"
"""A mark of the byte order before the first character is no part of it."""
_ONE_LIMIT = threading.Lock()
"""Of a CSV's cells, for the whole process."""
_LONGEST_CELL = 10_000_000
"""Characters of a CSV's cell, beyond Python's own limit of 131,072."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One record of a benchmark.

    Example:
        >>> Row(place="gsm8k/test.jsonl:1", values={"answer": "#### 18"}).text("answer")
        '#### 18'
    """

    place: str
    """`FILE:LINE`, or the hub's id with a row number; both from 1."""
    values: Mapping[str, Any]

    def get(self, field: str) -> Any:
        """Returns a field that has to be there.

        Raises:
            InputError: It is not.
        """
        if field not in self.values:
            raise self.error(f"field {field!r} is missing; the row has {sorted(self.values)}")
        return self.values[field]

    def text(self, field: str) -> str:
        """Returns a field that has to be a text with something in it.

        Raises:
            InputError: It is not.
        """
        value = self.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"field {field!r} is {_brief(value)}; it must be a text that is not empty")
        return value

    def error(self, problem: str) -> InputError:
        """An error that names this row."""
        return InputError(f"{self.place}: {problem}")


class Rows(NamedTuple):
    """Rows of one split of a source."""

    rows: list[Row]
    origin: str
    """The file, or the hub's id with the commit that was read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set of the hub and where its files lie locally.

    Example:
        >>> HubSource(name="gsm8k", hub_id="openai/gsm8k", config="main").name
        'gsm8k'
    """

    name: str
    """Folder under the data directory; `-` and `_` are the same."""
    hub_id: str
    config: str | None = None
    """The hub's configuration."""
    config_in_files: bool = False
    """Whether a local file has to name the configuration, because there are several."""
    revision: str | None = None
    """The hub's revision where none is asked for; data sets that are scripts are read from `refs/convert/parquet`."""
    gated: bool = False
    """Whether the hub asks to accept terms first."""

    def read(self, split: str, data_dir: Path | None, revision: str | None = None) -> Rows:
        """Returns the rows of one of the hub's splits, in the hub's order.

        Args:
            split: The hub's name of it.
            data_dir: Local files, which come before the hub.
            revision: Of the hub; None takes the source's own.

        Raises:
            InputError: There is neither a file nor a hub, or a file and a revision; a row is bad.
        """
        path = self.find_file(split, data_dir)
        if path is not None and revision:
            raise InputError(
                f"data_revision={revision!r} is of {self.hub_id} on the hub, and {path} is read instead; drop either"
            )
        if path is not None:
            return Rows(read_rows(path), str(path))
        return self._download(split, data_dir, revision or self.revision)

    def read_if_there(self, split: str, data_dir: Path | None, revision: str | None = None) -> Rows:
        """As `read`, and no rows where local files are used and this split is none of them."""
        if data_dir is not None and self.has_folder(data_dir) and self.find_file(split, data_dir) is None:
            return Rows([], "")
        return self.read(split, data_dir, revision)

    def has_folder(self, data_dir: Path) -> bool:
        """Whether there are local files of this source."""
        return any((data_dir / folder).is_dir() for folder in self._folders())

    def find_file(self, split: str, data_dir: Path | None) -> Path | None:
        """Returns the local file of a split, or None: `CONFIG_SPLIT.jsonl`, or `SPLIT.jsonl` where that is clear."""
        if data_dir is None:
            return None
        stems = [f"{self.config}_{split}"] if self.config else []
        stems += [] if self.config_in_files else [split]
        paths = (
            data_dir / folder / (stem + suffix)
            for folder in self._folders() for stem in stems for suffix in SUFFIXES
        )  # fmt: skip
        return next((path for path in paths if path.is_file()), None)

    def _folders(self) -> Sequence[str]:
        return tuple(dict.fromkeys((self.name, self.name.replace("_", "-"), self.name.replace("-", "_"))))

    def _download(self, split: str, data_dir: Path | None, revision: str | None) -> Rows:
        import datasets  # Half a second and a network client: only where no file is at hand.

        try:
            with _quiet("huggingface_hub"):  # It tells each of its retries, twice.
                builder = datasets.load_dataset_builder(self.hub_id, self.config, revision=revision)
                builder.download_and_prepare()
                table = builder.as_dataset(split=split)
        except (OSError, ValueError, RuntimeError) as error:
            stem = f"{self.config}_{split}" if self.config_in_files and self.config else split
            wanted = f"{data_dir or 'DIR'}/{self.name}/{stem}.jsonl"
            remedy = f"put its rows into {wanted} and give --data_dir={data_dir or 'DIR'}, or allow the hub"
            if self.gated:
                remedy += (
                    f", accept its terms at https://huggingface.co/datasets/{self.hub_id} and log in: hf auth login"
                )
            at = f" at revision {revision!r}" if revision else ""
            raise InputError(
                f"data set {self.hub_id} split {split!r}{at} is not at hand ({first_line(error)}); {remedy}"
            ) from error
        rows = [Row(place=f"{self.hub_id} {split} row {i}", values=values) for i, values in enumerate(table, 1)]
        return Rows(rows, f"{self.hub_id}@{builder.hash or revision or 'newest'}")


def read_rows(path: Path) -> list[Row]:
    """Reads `.jsonl`, `.jsonl.gz`, `.json` (a list of objects), `.parquet`, or `.csv` with a line of names.

    Raises:
        InputError: The file cannot be read or holds no rows; a row is no object.
    """
    if not path.is_file():
        raise InputError(f"data file {path} does not exist; give the path of a .jsonl, .json, .parquet or .csv file")
    try:
        rows = list(_read(path))
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        remedy = "write it again as UTF-8"
        if isinstance(error, csv.Error):
            remedy = f"write it again as CSV, with at most {_LONGEST_CELL:,} characters in a cell"
        elif path.suffix == ".gz" and not isinstance(error, UnicodeDecodeError):
            remedy = "compress it again with gzip"
        raise InputError(f"data file {path} cannot be read ({first_line(error)}); {remedy}") from error
    if not rows:
        raise InputError(f"data file {path} holds no rows; write one a line")
    return rows


def _read(path: Path) -> Iterator[Row]:
    if path.name.endswith(".parquet"):
        return _numbered(path, _read_parquet(path))
    if path.name.endswith(".json"):
        return _numbered(path, _read_list(path))
    return _read_csv(path) if path.name.endswith(".csv") else _read_lines(path)


def _read_csv(path: Path) -> Iterator[Row]:
    """Rows under the names of the first line; every value is a text."""
    with _longest_cell(_LONGEST_CELL), path.open(encoding=_UTF8, newline="") as lines:
        table = csv.DictReader(lines)
        _check_names(path, table.fieldnames or ())
        for values in table:
            row = Row(place=f"{path}:{table.line_num}", values=values)
            if None in values or None in values.values():
                raise row.error(f"the row has not the {len(table.fieldnames or ())} columns of the first line")
            yield row


@contextlib.contextmanager
def _longest_cell(characters: int) -> Iterator[None]:
    """Lets cells of a CSV be longer; in one thread at a time, as the limit is the whole process's."""
    with _ONE_LIMIT:
        before = csv.field_size_limit(characters)
        try:
            yield
        finally:
            csv.field_size_limit(before)


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Lets a logger say errors alone, for a while."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_names(path: Path, names: Sequence[str]) -> None:
    mark = next((mark for mark in ";\t" if len(names) == 1 and mark in names[0]), None)
    if mark is not None:
        raise InputError(f"{path}:1: the columns are separated by {mark!r}; write commas between them")


def _read_lines(path: Path) -> Iterator[Row]:
    with gzip.open(path, "rt", encoding=_UTF8) if path.suffix == ".gz" else path.open(encoding=_UTF8) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{path}:{number}"
                yield _row(place, _parse(place, line))


def _read_list(path: Path) -> Sequence[Any]:
    values = _parse(str(path), path.read_text(encoding=_UTF8))
    if not isinstance(values, list):
        raise InputError(f"{path}: the file is {_brief(values)}; it must be a JSON list of objects")
    return values


def _read_parquet(path: Path) -> Sequence[Any]:
    from pyarrow import ArrowInvalid, parquet  # type: ignore[import-untyped]  # The reader below `datasets`.

    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except ArrowInvalid as error:
        raise InputError(f"data file {path} cannot be read ({first_line(error)}); write it again as parquet") from error
    return rows


def _numbered(path: Path, values: Sequence[Any]) -> Iterator[Row]:
    return (_row(f"{path}:{number}", value) for number, value in enumerate(values, 1))


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{place}: no valid JSON ({first_line(error)}); write one JSON object a line") from error
    except ValueError as error:  # An integer of more digits than Python reads.
        raise InputError(f"{place}: a whole number has more than 4,300 digits; write it as a text") from error


def _row(place: str, values: Any) -> Row:
    if not isinstance(values, dict):
        raise InputError(f"{place}: the row is {_brief(values)}; it must be a JSON object")
    return Row(place=place, values=values)


def _brief(value: Any) -> str:
    return repr(value)[:60]
