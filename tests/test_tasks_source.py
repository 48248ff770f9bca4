"""Local files of every form are read; what is bad in them is named by file and line."""

import csv
import gzip
import json

import pytest

from w4s_jax.tasks.source import HubSource, read_rows
from w4s_jax.types import InputError

ROWS = [{"question": "1 + 1?", "answer": "2"}, {"question": "1 + 2?", "answer": "3"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def _write(path, form):
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == ".jsonl":
        path.write_text(LINES + "\n")
    elif form == ".jsonl.gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    elif form == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        pytest.importorskip("datasets").Dataset.from_list(ROWS).to_parquet(path)


@pytest.mark.parametrize("form", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
@pytest.mark.parametrize("folder", ["my_set", "my-set"])
def test_a_local_file_is_found_in_every_form(tmp_path, folder, form):
    _write(tmp_path / folder / f"test{form}", form)
    rows, origin = HubSource(name="my_set", hub_id="nobody/my-set").read("test", tmp_path)
    assert origin == str(tmp_path / folder / f"test{form}")
    assert [dict(row.values) for row in rows] == ROWS
    assert rows[1].place.endswith(f"test{form}:2")


def test_a_file_of_a_configuration_carries_its_name(tmp_path):
    _write(tmp_path / "mgsm" / "de_test.jsonl", ".jsonl")
    source = HubSource(name="mgsm", hub_id="nobody/mgsm", config="de", config_in_files=True)
    assert len(source.read("test", tmp_path).rows) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + "{", r"bad\.jsonl:3: no valid JSON"),
        (LINES + "[1]\n", r"bad\.jsonl:3: the row is \[1\]; it must be a JSON object"),
        ("[" * 100_000, r"bad\.jsonl:1: no valid JSON"),
        (LINES + '{"answer": ' + "9" * 5_000 + "}\n", r"bad\.jsonl:3: a whole number has more than 4,300 digits"),
        ("", r"bad\.jsonl holds no rows"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_rows(path)


@pytest.mark.parametrize("name", ["bad.jsonl", "bad.json", "bad.jsonl.gz", "bad.parquet"])
def test_a_file_of_noise_is_one_line_of_input_error(tmp_path, name):
    (tmp_path / name).write_bytes(b"\xff\xfe\x00noise")
    with pytest.raises(InputError, match=r"bad\.\S+ cannot be read") as error:
        read_rows(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_file_that_gzip_cannot_read_is_to_be_compressed_again(tmp_path):
    packed = gzip.compress((LINES * 50).encode())
    for content in (packed[:10] + b"\xff" * 9 + packed[19:], packed[:-20], b"no gzip"):
        (tmp_path / "bad.jsonl.gz").write_bytes(content)
        with pytest.raises(InputError, match=r"bad\.jsonl\.gz cannot be read .*; compress it again with gzip$"):
            read_rows(tmp_path / "bad.jsonl.gz")


@pytest.mark.parametrize("form", [".jsonl", ".jsonl.gz", ".json"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, form):
    text = "\ufeff" + (json.dumps(ROWS) if form == ".json" else LINES)
    content = text.encode()
    (tmp_path / f"rows{form}").write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    assert [dict(row.values) for row in read_rows(tmp_path / f"rows{form}")] == ROWS


def test_a_missing_field_and_an_empty_text_name_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES + '{"question": " ", "answer": "4"}\n')
    rows = read_rows(path)
    with pytest.raises(
        InputError, match=r"rows\.jsonl:1: field 'input' is missing; the row has \['answer', 'question'\]"
    ):
        rows[0].text("input")
    with pytest.raises(InputError, match=r"rows\.jsonl:3: field 'question' is ' '"):
        rows[2].text("question")


@pytest.mark.parametrize(
    "failure",
    [ConnectionError("no network"), FileNotFoundError("gone\nand more"), ValueError("bad"), RuntimeError("a script")],
)
def test_without_file_and_hub_the_error_says_where_the_file_belongs(tmp_path, monkeypatch, failure):
    datasets = pytest.importorskip("datasets")

    def fail(*_args, **_kwargs):
        raise failure

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    with pytest.raises(InputError, match=r"openai/gsm8k split 'test' is not at hand .*gsm8k/test\.jsonl") as error:
        HubSource(name="gsm8k", hub_id="openai/gsm8k", config="main").read("test", tmp_path)
    assert "\n" not in str(error.value)


def test_rows_of_the_hub_are_named_by_data_set_and_row(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = {}

    class Builder:
        hash = "0123abcd"

        def download_and_prepare(self):
            asked["prepared"] = True

        def as_dataset(self, split):
            asked["split"] = split
            return datasets.Dataset.from_list(ROWS)

    def builder(*args, **kwargs):
        asked["call"] = (args, kwargs)
        return Builder()

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    source = HubSource(name="m", hub_id="a/m", config="de", revision="refs/convert/parquet")
    rows, origin = source.read("test", None)
    assert asked == {"call": (("a/m", "de"), {"revision": "refs/convert/parquet"}), "prepared": True, "split": "test"}
    assert origin == "a/m@0123abcd"  # the commit that was read, not the name it was asked by
    assert rows[1].place == "a/m test row 2"
    assert rows[1].text("answer") == "3"
    source.read("test", None, "v2")
    assert asked["call"][1] == {"revision": "v2"}


def test_a_revision_beside_a_local_file_is_refused(tmp_path):
    _write(tmp_path / "m" / "test.jsonl", ".jsonl")
    with pytest.raises(InputError, match=r"data_revision='v2' is of nobody/m on the hub, and .*test\.jsonl is read"):
        HubSource(name="m", hub_id="nobody/m").read("test", tmp_path, "v2")


def test_a_gated_data_set_says_where_its_terms_are_accepted(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(*_args, **_kwargs):
        raise ConnectionError("403 Client Error: gated")

    monkeypatch.setattr(datasets, "load_dataset_builder", fail)
    message = r"put its rows into DIR/g/train\.jsonl .*terms at https://huggingface\.co/datasets/a/g and log in"
    with pytest.raises(InputError, match=message):
        HubSource(name="g", hub_id="a/g", gated=True).read("train", None)


def test_a_split_that_local_files_lack_is_left_out_only_where_it_may_be(tmp_path):
    _write(tmp_path / "m" / "test.jsonl", ".jsonl")
    source = HubSource(name="m", hub_id="nobody/m", config="main")
    assert source.read_if_there("train", tmp_path) == ([], "")
    with pytest.raises(InputError, match="'train'"):
        source.read("train", tmp_path)


def test_a_file_may_name_the_configuration_where_there_is_one(tmp_path):
    _write(tmp_path / "m" / "main_test.jsonl", ".jsonl")
    assert len(HubSource(name="m", hub_id="nobody/m", config="main").read("test", tmp_path).rows) == 2


def test_a_csv_is_read_under_the_names_of_its_first_line(tmp_path):
    (tmp_path / "rows.csv").write_text('\ufeffquestion,answer\n"1, 2, or\n3?",2\nx,y\n', encoding="utf-8")
    rows = read_rows(tmp_path / "rows.csv")
    assert [dict(row.values) for row in rows] == [
        {"question": "1, 2, or\n3?", "answer": "2"},
        {"question": "x", "answer": "y"},
    ]
    assert rows[0].place.endswith("rows.csv:3")


@pytest.mark.parametrize("line", ["only one", "a,b,c"])
def test_a_line_of_a_csv_with_other_columns_is_named(tmp_path, line):
    (tmp_path / "rows.csv").write_text(f"question,answer\n1,2\n{line}\n")
    with pytest.raises(InputError, match=r"rows\.csv:3: the row has not the 2 columns of the first line"):
        read_rows(tmp_path / "rows.csv")


def test_a_long_cell_is_read_and_a_longer_one_has_its_remedy(tmp_path):
    before = csv.field_size_limit()
    for length in (140_000, 10_000_001):
        (tmp_path / f"{length}.csv").write_text(f"question,answer\n{'x' * length},5\n")
    [row] = read_rows(tmp_path / "140000.csv")
    assert len(row.text("question")) == 140_000
    with pytest.raises(InputError, match=r"larger than field limit .* with at most 10,000,000 characters in a cell"):
        read_rows(tmp_path / "10000001.csv")
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(("mark", "shown"), [(";", "';'"), ("\t", r"'\\t'")])
def test_another_separator_than_the_comma_is_named(tmp_path, mark, shown):
    (tmp_path / "rows.csv").write_text(f"question{mark}answer\nHow many, in all?{mark}2\n")
    with pytest.raises(InputError, match=rf"rows\.csv:1: the columns are separated by {shown}; write commas"):
        read_rows(tmp_path / "rows.csv")
