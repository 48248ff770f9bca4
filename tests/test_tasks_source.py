"""Local files of every form are read; what is bad in them is named by file and line."""

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
    rows = HubSource(name="my_set", hub_id="nobody/my-set").read("test", tmp_path)
    assert [dict(row.values) for row in rows] == ROWS
    assert rows[1].place.endswith(f"test{form}:2")


def test_a_file_of_a_configuration_carries_its_name(tmp_path):
    _write(tmp_path / "mgsm" / "de_test.jsonl", ".jsonl")
    source = HubSource(name="mgsm", hub_id="nobody/mgsm", config="de", config_in_files=True)
    assert len(source.read("test", tmp_path)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES + "{", r"bad\.jsonl:3: no valid JSON"),
        (LINES + "[1]\n", r"bad\.jsonl:3: the row is \[1\]; it must be a JSON object"),
        ("[" * 100_000, r"bad\.jsonl:1: no valid JSON"),
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

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"openai/gsm8k split 'test' is not at hand .*gsm8k/test\.jsonl") as error:
        HubSource(name="gsm8k", hub_id="openai/gsm8k", config="main").read("test", tmp_path)
    assert "\n" not in str(error.value)


def test_rows_of_the_hub_are_named_by_data_set_and_row(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = {}

    def load(*args, **kwargs):
        asked["call"] = (args, kwargs)
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = HubSource(name="m", hub_id="a/m", config="de", revision="refs/convert/parquet").read("test", None)
    assert asked["call"] == (("a/m", "de"), {"split": "test", "revision": "refs/convert/parquet"})
    assert rows[1].place == "a/m test row 2"
    assert rows[1].text("answer") == "3"
