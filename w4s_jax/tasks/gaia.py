"""Questions to an assistant with a search engine and tools, asked without them: GAIA.

hub rows, attached files → **items with the texts in the question** → GAIA grader

Source: arXiv 2311.12983, the 165 validation questions whose answers are open to whoever
accepts the terms. Departures: no web and no tools; a file is in the question where it is
a text, and only named there where it is not. Splits are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from w4s_jax.errors import first_line
from w4s_jax.tasks.base import ItemTask, TaskOptions, variant_parts
from w4s_jax.tasks.scoring.gaia import GaiaGrader
from w4s_jax.tasks.source import HubSource, Row, Rows
from w4s_jax.tasks.splits import split_pool
from w4s_jax.types import InputError, Item
from w4s_jax.workflows import seeds_for

LEVELS = ("level1", "level2", "level3")

TEXTS = frozenset(
    ".c .cfg .cpp .css .csv .fasta .geojson .h .htm .html .ini .ipynb .java .js .json .jsonl .jsonld .log .md .pdb "
    ".py .r .rst .rtf .sh .sql .srt .svg .tex .toml .ts .tsv .txt .vtt .xml .yaml .yml".split()
)
"""Suffixes of files that are read into the question."""

MAX_FILE_CHARS = 20_000
"""Longest text of an attached file; what is left out is counted at its end."""

_HUB = "gaia-benchmark/GAIA"
_HUB_FOLDER = "2023/validation"
_FOLDERS = ("", "files", "validation")
"""Where attached files lie under the folder of the rows, beside `file_path`."""

_FORM = (
    "Answer with a number without units or thousands separators, or with as few words as possible, or with a list of "
    "such with commas between them."
)
"""The end of each question."""

_GRADER = GaiaGrader()


class _Question(NamedTuple):
    """A row with its place in the source and what variants choose by."""

    place: int
    row: Row
    level: str
    file_name: str


def load_gaia(variant: str, options: TaskOptions) -> ItemTask:
    """GAIA's validation questions, without tools: 33 validation and 132 test items.

    Args:
        variant: `level1+level2`, `text` for questions without an attached file, `level1+text`; empty takes all.
        options: Of the task.

    Raises:
        InputError: An unknown variant, no data (it is gated), a bad row, an attached text that the hub does not
            give, or sizes that exceed the data.
    """
    parts = variant_parts("gaia", variant, (*LEVELS, "text"))
    levels = [level for level in LEVELS if level in parts] or LEVELS
    (rows, origin), local = _read(levels, options)
    questions = [q for q in map(_question, range(len(rows)), rows) if q.level in levels]
    chosen = [q for q in questions if not (q.file_name and "text" in parts)]
    items = [_item(q, local, options.revision) for q in chosen]
    cut = split_pool("gaia", items, seed=options.split_seed, sizes=options.sizes)
    return ItemTask(
        name="gaia" + (f":{variant}" if variant else ""),
        description=(
            "Questions to a general assistant about facts, puzzles and attached files, asked here without any tool: "
            "no web, no browser, and files only where they are texts. The answer is a number without units or "
            "thousands separators, or as few words as possible, or a list of such with commas between them."
        ),
        splits=cut.items,
        grader=_GRADER,
        rule=_GRADER.rule,
        seeds=seeds_for("qa"),
        source=f"{origin}, {cut.how}; without tools: no web, {_format_file_share(items)}",
    )


def _format_file_share(items: Sequence[Item]) -> str:
    attached = [item for item in items if item.metadata["file_name"]]
    texts = sum(item.metadata["file_in_question"] for item in attached)
    return f"{texts} of {len(attached)} attached files as text, the others by name alone"


def _item(question: _Question, local: Path | None, revision: str | None) -> Item:
    place, row, level, name = question
    given = row.get("Final answer")
    answer = "" if given is None else str(given).strip()
    if answer in ("", "?"):
        raise row.error(f"field 'Final answer' is {answer!r}; the hub's test split has none, take its validation split")
    content = _content(row, name, local, revision) if name else None
    attached = [_attachment(name, content)] if name else []
    return Item(
        id=f"gaia/{row.values.get('task_id') or place}",
        question="\n\n".join([row.text("Question").strip(), *attached, _FORM]),
        target=answer,
        metadata={"level": level, "file_name": name, "file_in_question": content is not None},
    )


# --- rows -------------------------------------------------------------------


def _source(config: str) -> HubSource:
    return HubSource(name="gaia", hub_id=_HUB, config=config, config_in_files=config != "2023_all", gated=True)


def _read(levels: Sequence[str], options: TaskOptions) -> tuple[Rows, Path | None]:
    """Rows of all levels, or of each where local files are by level; and the local folder they are from."""
    sources = [_source("2023_all")]
    by_level = [_source(f"2023_{level}") for level in levels]
    if not _local(sources, options) and _local(by_level, options):
        sources = by_level
    read = [source.read("validation", options.data_dir, options.revision) for source in sources]
    rows = [row for part in read for row in part.rows]
    return Rows(rows, read[0].origin), _local(sources, options)


def _local(sources: Sequence[HubSource], options: TaskOptions) -> Path | None:
    """The folder of the first local file of these sources."""
    files = (source.find_file("validation", options.data_dir) for source in sources)
    return next((path.parent for path in files if path), None)


def _question(place: int, row: Row) -> _Question:
    level = f"level{row.get('Level')}"
    if level not in LEVELS:
        raise row.error(f"field 'Level' is {row.get('Level')!r}; it must be 1, 2 or 3")
    name = row.values.get("file_name") or ""
    if not isinstance(name, str) or re.search(r"[/\\\0]", name):
        raise row.error(f"field 'file_name' is {name!r}; it must be the name of a file, without a folder")
    return _Question(place, row, level, name)


# --- attached files ---------------------------------------------------------


def _attachment(name: str, content: str | None) -> str:
    """What the question says of its file."""
    if content is None:
        return f"Attached file {name}: it cannot be opened here."
    left_out = len(content) - MAX_FILE_CHARS
    more = f" … ({left_out} more characters)" if left_out > 0 else ""
    return f"Attached file {name}:\n{content[:MAX_FILE_CHARS].strip()}{more}"


def _content(row: Row, name: str, local: Path | None, revision: str | None) -> str | None:
    """The text of a row's file; None where it is no text, or where local rows come without it."""
    if Path(name).suffix.lower() not in TEXTS:
        return None
    path = _local_file(row, name, local) if local else _hub_file(row, name, revision)
    if path is None:
        return None
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise row.error(f"attached file {path} cannot be read ({error.strerror}); make it readable") from error


def _local_file(row: Row, name: str, local: Path) -> Path | None:
    """The file of a row, where it lies in the folder of the rows; nothing outside it is read."""
    stated = local / str(row.values.get("file_path") or "")
    paths = [*(local / folder / name for folder in _FOLDERS), *([stated] if stated.name == name else [])]
    return next((path for path in paths if _is_file_in(local, path)), None)


def _is_file_in(folder: Path, path: Path) -> bool:
    """Whether a path is a file of the folder, its `..` and links followed."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except OSError:  # A name that no file can have.
        return False


def _hub_file(row: Row, name: str, revision: str | None) -> Path:
    """Downloads one attached file, or finds it in the hub's cache.

    Raises:
        InputError: The hub does not give it.
    """
    import huggingface_hub  # A network client: only where a file is needed.

    stated = str(row.values.get("file_path") or "")
    path = stated if stated and not Path(stated).is_absolute() else f"{_HUB_FOLDER}/{name}"
    try:
        return Path(huggingface_hub.hf_hub_download(_HUB, path, repo_type="dataset", revision=revision))
    except (OSError, ValueError, RuntimeError) as error:
        problem = first_line(error)
        raise InputError(
            f"{row.place}: attached file {path} of {_HUB} is not at hand ({problem}); put the rows and the file into "
            f"DIR/gaia and give --data_dir=DIR, or take gaia:text, or accept its terms at "
            f"https://huggingface.co/datasets/{_HUB} and log in: hf auth login"
        ) from error
