"""GAIA without tools: texts stand in the question, other files are named, and levels are chosen by name."""

import huggingface_hub
import pytest
import small_benchmarks as small

from w4s_jax.tasks import gaia
from w4s_jax.tasks.base import TaskOptions
from w4s_jax.tasks.gaia import load_gaia
from w4s_jax.types import InputError, Split

ROW = {"task_id": "t1", "Question": "How many?", "Level": "2", "Final answer": "17", "file_name": "", "file_path": ""}


def _items(task):
    return {item.id: item for split in Split for item in task.items(split)}


def _load(folder, rows, variant="", name="validation"):
    small.write_rows(folder / "gaia" / f"{name}.jsonl", rows)
    return load_gaia(variant, TaskOptions(data_dir=folder))


def _question(folder, **fields):
    """What stands before the form of the answer."""
    [item] = _items(_load(folder, [ROW | fields])).values()
    question, end = item.question.split("\n\nAnswer with ")
    assert end.startswith("a number without units")
    return question


async def test_an_item_is_the_rows_question_and_answer(tmp_path):
    task = _load(tmp_path, [ROW])
    item = _items(task)["gaia/t1"]
    assert (item.target, item.metadata["level"]) == ("17", "level2")
    assert item.question == (
        "How many?\n\nAnswer with a number without units or thousands separators, or with as few words as possible, "
        "or with a list of such with commas between them."
    )
    assert (await task.grade(item, "17", None)).score == 1.0
    assert (await task.grade(item, "18", None)).score == 0.0
    assert "without any tool" in task.description
    assert "without tools" in task.source


@pytest.mark.parametrize("folder", ["", "files", "validation"])
def test_a_text_at_hand_stands_in_the_question_under_its_name(tmp_path, folder):
    (tmp_path / "gaia" / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "gaia" / folder / "t1.csv").write_text("a,b\n1,2\n")
    assert _question(tmp_path, file_name="t1.csv") == "How many?\n\nAttached file t1.csv:\na,b\n1,2"


def test_a_file_is_found_by_the_path_of_its_row(tmp_path):
    (tmp_path / "gaia" / "2023" / "validation").mkdir(parents=True)
    (tmp_path / "gaia" / "2023" / "validation" / "t1.py").write_text("print(7)")
    (tmp_path / "gaia" / "2023" / "t1.txt").write_text("absolute")
    stated = {"file_name": "t1.py", "file_path": "2023/validation/t1.py"}
    assert "Attached file t1.py:\nprint(7)" in _question(tmp_path, **stated)
    absolute = {"file_name": "t1.txt", "file_path": str(tmp_path / "gaia" / "2023" / "t1.txt")}
    assert "Attached file t1.txt:\nabsolute" in _question(tmp_path, **absolute)


@pytest.mark.parametrize("path", ["{outside}/t1.txt", "../outside/t1.txt", "files/../../outside/t1.txt", "link/t1.txt"])
def test_a_file_outside_the_folder_of_the_rows_is_not_read(tmp_path, path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "t1.txt").write_text("canary")
    (tmp_path / "gaia" / "files").mkdir(parents=True)
    (tmp_path / "gaia" / "link").symlink_to(tmp_path / "outside")
    stated = {"file_name": "t1.txt", "file_path": path.format(outside=tmp_path / "outside")}
    assert _question(tmp_path, **stated) == "How many?\n\nAttached file t1.txt: it cannot be opened here."


@pytest.mark.parametrize("folder", ["", "files", "validation"])
def test_a_link_to_a_file_outside_is_not_followed_and_one_inside_is(tmp_path, folder):
    (tmp_path / "secret").write_text("canary")
    (tmp_path / "gaia" / folder).mkdir(parents=True, exist_ok=True)
    link = tmp_path / "gaia" / folder / "t1.txt"
    link.symlink_to(tmp_path / "secret")
    assert "t1.txt: it cannot be opened" in _question(tmp_path, file_name="t1.txt")
    link.unlink()
    (tmp_path / "gaia" / "blob").write_text("own")
    link.symlink_to(tmp_path / "gaia" / "blob")
    assert "t1.txt:\nown" in _question(tmp_path, file_name="t1.txt")


def test_a_name_that_no_file_can_have_is_not_at_hand(tmp_path):
    name = "x" * 300 + ".txt"
    assert _question(tmp_path, file_name=name).endswith(f"{name}: it cannot be opened here.")


def test_a_path_to_a_file_of_another_name_is_not_followed(tmp_path):
    (tmp_path / "secret").write_text("canary")
    stated = {"file_name": "t1.txt", "file_path": str(tmp_path / "secret")}
    assert "canary" not in _question(tmp_path, **stated)


def test_any_other_file_is_named_and_cannot_be_opened(tmp_path):
    (tmp_path / "gaia").mkdir()
    (tmp_path / "gaia" / "t1.png").write_bytes(b"\x89PNG")
    cannot = "How many?\n\nAttached file {}: it cannot be opened here."
    assert _question(tmp_path, file_name="t1.png") == cannot.format("t1.png")
    assert _question(tmp_path, file_name="missing.txt") == cannot.format("missing.txt")


def test_a_long_text_is_bounded_and_what_is_left_out_is_counted(tmp_path):
    (tmp_path / "gaia").mkdir()
    (tmp_path / "gaia" / "t1.TXT").write_text("x" * (gaia.MAX_FILE_CHARS + 5))
    question = _question(tmp_path, file_name="t1.TXT")
    assert question.endswith("x … (5 more characters)")
    assert question.count("x") == gaia.MAX_FILE_CHARS


def test_bytes_that_are_no_utf8_do_not_stop_a_task(tmp_path):
    (tmp_path / "gaia").mkdir()
    (tmp_path / "gaia" / "t1.txt").write_bytes(b"caf\xe9")
    assert "caf\ufffd" in _question(tmp_path, file_name="t1.txt")


def test_a_gold_number_may_be_a_number(tmp_path):
    [item] = _items(_load(tmp_path, [ROW | {"Final answer": 0}])).values()
    assert item.target == "0"


def test_files_are_counted_in_the_source(tmp_path):
    task = load_gaia("", TaskOptions(data_dir=small.write_small_benchmarks(tmp_path)))
    assert "4 of 8 attached files as text, the others by name alone" in task.source


def test_a_variant_chooses_levels_and_questions_without_files(tmp_path):
    rows = [small.gaia_row(i) for i in range(36)]

    def chosen(variant):
        items = _items(_load(tmp_path, rows, variant)).values()
        return {(item.metadata["level"], bool(item.metadata["file_name"])) for item in items}, len(items)

    assert chosen("") == (
        {("level1", False), ("level2", False), ("level2", True), ("level3", False), ("level3", True)},
        36,
    )
    assert chosen("level1+level2") == ({("level1", False), ("level2", False), ("level2", True)}, 24)
    assert chosen("text") == ({("level1", False), ("level2", False), ("level3", False)}, 24)
    assert chosen("level2+text") == ({("level2", False)}, 6)
    with pytest.raises(InputError, match="'level4' is unknown; it takes some of level1, level2, level3, text"):
        chosen("level4")


def test_files_by_level_are_read_where_there_is_none_of_all(tmp_path):
    for level in (1, 2, 3):
        rows = [row for row in map(small.gaia_row, range(12)) if row["Level"] == str(level)]
        small.write_rows(tmp_path / "gaia" / f"2023_level{level}_validation.jsonl", rows)
    options = TaskOptions(data_dir=tmp_path)
    assert len(_items(load_gaia("", options))) == 12
    assert len(_items(load_gaia("level3+level1", options))) == 8


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Final answer": "?"}, "field 'Final answer' is '.'; the hub's test split has none"),
        ({"Final answer": None}, "field 'Final answer' is ''"),
        ({"Level": 4}, "field 'Level' is 4; it must be 1, 2 or 3"),
        ({"file_name": "../t1.txt"}, r"field 'file_name' is '\.\./t1\.txt'; it must be the name of a file"),
        ({"file_name": 3}, "field 'file_name' is 3"),
        ({"Question": ""}, "field 'Question' is ''"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, fields, message):
    with pytest.raises(InputError, match=rf"validation\.jsonl:2: {message}"):
        _load(tmp_path, [ROW, ROW | {"task_id": "t2"} | fields])


# --- from the hub -----------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub with three rows; what it is asked for is listed."""
    datasets = pytest.importorskip("datasets")
    names = ("t1.csv", "t2.png", "")
    paths = ("2023/validation/t1.csv", "2023/validation/t2.png", "")
    rows = [
        ROW | {"task_id": f"t{i}", "file_name": n, "file_path": p}
        for i, (n, p) in enumerate(zip(names, paths, strict=True), 1)
    ]
    asked = []

    class Builder:
        hash = "0123abcd"

        def download_and_prepare(self):
            """Nothing to fetch."""

        def as_dataset(self, split):
            return datasets.Dataset.from_list(rows)

    def download(repo, path, repo_type, revision):
        asked.append((repo, path, repo_type, revision))
        (tmp_path / "got").write_text("a,b")
        return str(tmp_path / "got")

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_args, **_kwargs: Builder())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_only_texts_are_fetched_from_the_hub(hub):
    items = _items(load_gaia("", TaskOptions(revision="v2")))
    assert hub == [("gaia-benchmark/GAIA", "2023/validation/t1.csv", "dataset", "v2")]
    assert "\n\nAttached file t1.csv:\na,b\n\nAnswer" in items["gaia/t1"].question
    assert "\n\nAttached file t2.png: it cannot be opened here.\n\nAnswer" in items["gaia/t2"].question
    hub.clear()
    assert len(_items(load_gaia("text", TaskOptions()))) == 1
    assert hub == []


@pytest.mark.parametrize(
    "failure", [ConnectionError("no network\nat all"), ValueError("bad"), FileNotFoundError("gone")]
)
def test_a_text_that_the_hub_does_not_give_is_an_error_with_its_remedy(hub, monkeypatch, failure):
    def fail(*_args, **_kwargs):
        raise failure

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    message = (
        r"GAIA validation row 1: attached file 2023/validation/t1\.csv .*--data_dir=DIR, or take gaia:text, .*terms"
    )
    with pytest.raises(InputError, match=message) as error:
        load_gaia("", TaskOptions())
    assert "\n" not in str(error.value)
