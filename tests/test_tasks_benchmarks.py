"""Every benchmark of the registry from small local files: sealed, disjoint, stable, and its bad rows named."""

import gzip
import json
import re

import pytest
import small_benchmarks as small
from sandbox_host import opened

from w4s_jax.tasks.base import SealedTask, TaskOptions
from w4s_jax.tasks.registry import make_task, task_names
from w4s_jax.tasks.splits import SplitSizes, published_sizes
from w4s_jax.types import InputError, SealedSplitError, Split

BENCHMARKS = [name for name in task_names() if not name.startswith("toy")]
NO_TRAIN_OF_THEIR_OWN = [name for name in BENCHMARKS if name not in ("gsm8k", "svamp", "mmlu_pro")]

FIELDS = {
    "drop": ("drop/validation", small.drop_row, ("passage", "question", "answers_spans")),
    "gaia": ("gaia/validation", small.gaia_row, ("Question", "Level", "Final answer")),
    "gpqa": ("gpqa/train", small.gpqa_row, ("Question", "Correct Answer", "Incorrect Answer 3")),
    "gsm8k": ("gsm8k/test", small.gsm8k_row, ("question", "answer")),
    "gsm_hard": ("gsm_hard/train", small.gsm_hard_row, ("input", "target", "code")),
    "gsm_plus": ("gsm_plus/testmini", small.gsm_plus_row, ("question", "answer", "perturbation_type", "seed_question")),
    "hotpotqa": ("hotpotqa/validation", small.hotpotqa_row, ("question", "answer", "context")),
    "humaneval": (
        "humaneval/test",
        small.humaneval_row,
        ("task_id", "prompt", "canonical_solution", "test", "entry_point"),
    ),
    "math": ("math/test", lambda i: small.math_row(i, "algebra"), ("problem", "solution", "type")),
    "math_500": ("math_500/test", small.math_500_row, ("problem", "subject")),
    "mbpp": ("mbpp/test", small.mbpp_row, ("prompt", "code", "test_list")),
    "mgsm": ("mgsm/en_test", lambda i: small.mgsm_row(i, "en"), ("question", "answer_number")),
    "mmlu_pro": ("mmlu_pro/test", small.mmlu_pro_row, ("question", "options", "answer", "category")),
    "svamp": ("svamp/test", small.svamp_row, ("Body", "Question", "Answer")),
}
"""The file, the rows and the fields that have to be there, by benchmark."""

FULL = {
    "humaneval": (164, (0, 33, 131)),
    "mbpp": (427, (0, 86, 341)),
    "drop": (1_020, (20, 200, 800)),
    "hotpotqa": (1_020, (20, 200, 800)),
    "gsm8k": (1_319, (0, 264, 1_055)),
    "math": (605, (0, 119, 486)),
    "gsm_hard": (1_319, (491, 138, 500)),
    "gpqa": (198, (0, 32, 166)),
    "mmlu_pro": (1_000, (0, 200, 800)),
    "gaia": (165, (0, 33, 132)),
    "svamp": (300, (0, 60, 240)),
    "gsm_plus": (2_400, (0, 128, 500)),
    "math_500": (500, (0, 100, 400)),
}
"""Rows of the hub, or as many as are cut, and the sizes they are cut into."""


def _options(folder, **options):
    return TaskOptions(data_dir=folder, **options)


def _open(task):
    """Items of all splits."""
    task.unseal()
    return {split: task.items(split) for split in Split}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small.write_small_benchmarks(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tasks(data):
    return {name: make_task(name, _options(data)) for name in BENCHMARKS}


def test_the_small_files_are_of_every_benchmark():
    assert set(FIELDS) == set(BENCHMARKS)
    assert {stem.split("/")[0].replace("-", "_") for stem in small.small_files()} == set(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_sealed_and_tells_all_that_a_search_needs(tasks, name):
    task = tasks[name]
    assert isinstance(task, SealedTask)
    assert task.name == name
    assert all("def solver(" in workflow.code for workflow in task.seed_workflows())
    assert "answer is" in task.description
    assert task.rule
    assert "\n" not in task.rule + task.source + task.description
    assert task.metric in ("accuracy", "f1", "pass@1")
    with pytest.raises(SealedSplitError):
        task.items(Split.TEST)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_splits_are_disjoint_and_in_the_published_proportion(data, name):
    splits = _open(make_task(name, _options(data)))
    ids = [item.id for items in splits.values() for item in items]
    questions = {split: {item.question for item in items} for split, items in splits.items()}
    assert len(ids) == len(set(ids))
    assert not questions[Split.VALIDATION] & questions[Split.TEST]
    assert not questions[Split.TRAIN] & (questions[Split.TEST] | questions[Split.VALIDATION])
    _, validation, test = published_sizes(name)
    held_out = len(splits[Split.VALIDATION]) + len(splits[Split.TEST])
    slack = {"mgsm": 0.06, "gsm_plus": 0.14}.get(name, 0.03)  # These are cut by problem.
    assert len(splits[Split.VALIDATION]) / held_out == pytest.approx(validation / (validation + test), abs=slack)
    assert bool(splits[Split.TRAIN]) == (name not in NO_TRAIN_OF_THEIR_OWN)


def test_an_id_is_unique_over_all_benchmarks_and_begins_with_its_name(tasks):
    ids = {name: [item.id for item in task.answer_key()] for name, task in tasks.items()}
    every = [item_id for own in ids.values() for item_id in own]
    assert len(every) == len(set(every))
    assert all(item_id.startswith(f"{name}/") for name, own in ids.items() for item_id in own)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_item_is_plain_json_and_has_its_answer_in_the_form_of_a_workflows(tasks, name):
    for item in tasks[name].answer_key():
        plain = [item.target, dict(item.metadata), item.question, item.entry_point, list(item.public_tests)]
        assert json.loads(json.dumps(plain)) == plain
        answer = item.metadata.get("answer", item.metadata.get("program", item.target))
        assert isinstance(answer, str | float)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_hash_of_a_split_is_decided_by_rows_and_split_seed_alone(data, tasks, name):
    again, other = (make_task(name, _options(data, split_seed=seed)) for seed in (0, 1))
    for split in (Split.VALIDATION, Split.TEST):
        assert tasks[name].split_hash(split) == again.split_hash(split)
        assert tasks[name].split_hash(split) != other.split_hash(split)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_smaller_validation_split_is_a_prefix_and_leaves_the_test_split(data, tasks, name):
    cut = make_task(name, _options(data, sizes=SplitSizes(validation=3)))
    assert cut.items(Split.VALIDATION) == tasks[name].items(Split.VALIDATION)[:3]
    assert cut.split_hash(Split.TEST) == tasks[name].split_hash(Split.TEST)


@pytest.mark.parametrize("name", FULL)
def test_rows_as_many_as_the_hubs_give_the_published_sizes(tmp_path, name):
    (stem, make, _), (rows, sizes) = FIELDS[name], FULL[name]
    small.write_rows(tmp_path / f"{stem}.jsonl", map(make, range(rows)))
    task = make_task(name, _options(tmp_path))
    assert tuple(task.split_sizes().values()) == sizes


@pytest.mark.parametrize(
    "stem",
    [
        "gsm8k/main_test",
        "gsm_hard/train",
        "gsm-plus/testmini",
        "gsm_plus/test",
        "hotpotqa/distractor_validation",
        "math-500/test",
        "mbpp/sanitized_prompt",
        "mmlu_pro/test",
        "gpqa/gpqa_diamond_train",
        "gaia/2023_all_validation",
    ],
)
def test_a_file_is_found_under_every_spelling(tmp_path, stem):
    name = stem.split("/")[0].replace("-", "_")
    small.write_rows(tmp_path / f"{stem}.jsonl", map(FIELDS[name][1], range(24)))
    task = make_task(name, _options(tmp_path))
    assert str(tmp_path / stem) in task.source


def _write_form(path, rows):
    path.parent.mkdir()
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pytest.importorskip("datasets").Dataset.from_list(rows).to_parquet(path)


@pytest.mark.parametrize("form", [".json", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("name", ["drop", "hotpotqa", "mmlu_pro"])
def test_rows_with_lists_are_read_alike_from_files_of_every_form(tasks, tmp_path, form, name):
    folder = tmp_path / name
    stem, make, _ = FIELDS[name]
    _write_form(folder / f"{stem.split('/')[1]}{form}", [make(i) for i in range(24)])
    task = make_task(name, _options(tmp_path))
    assert task.split_hash(Split.TEST) == tasks[name].split_hash(Split.TEST)


def _no_hub(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ConnectionError("no network\nat all")

    monkeypatch.setattr(pytest.importorskip("datasets"), "load_dataset_builder", fail)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_without_file_and_hub_one_line_names_the_remedy(tmp_path, monkeypatch, name):
    _no_hub(monkeypatch)
    with pytest.raises(InputError, match=rf"put its rows into {tmp_path}/{name}/\S+\.jsonl") as error:
        make_task(name, _options(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "hub_id"), [("gpqa", "Idavidrein/gpqa"), ("gaia", "gaia-benchmark/GAIA")])
def test_a_gated_benchmark_names_the_page_of_its_terms(monkeypatch, name, hub_id):
    _no_hub(monkeypatch)
    with pytest.raises(InputError, match=rf"its terms at https://huggingface\.co/datasets/{hub_id} and log in"):
        make_task(name)


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name, (*_, fields) in FIELDS.items() for field in fields]
)
def test_a_row_without_a_field_is_named_by_its_line(tmp_path, name, field):
    stem, make, _ = FIELDS[name]
    rows = [make(i) for i in range(24)]
    del rows[1][field]
    small.write_rows(tmp_path / f"{stem}.jsonl", rows)
    with pytest.raises(InputError, match=rf"{stem}\.jsonl:2: .*{re.escape(field)}") as error:
        make_task(name, _options(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["drop", "gaia", "gpqa", "gsm_plus", "hotpotqa", "math", "mbpp", "mmlu_pro"])
def test_an_unknown_variant_is_refused_before_anything_is_read(name):
    with pytest.raises(InputError, match=f"task {name}:nonsense: 'nonsense' is unknown"):
        make_task(f"{name}:nonsense")


def test_a_variant_that_leaves_no_row_is_refused(tmp_path):
    small.write_rows(tmp_path / "math" / "test.jsonl", [small.math_row(0, "algebra")])
    with pytest.raises(InputError, match="task math: no row is left to split"):
        make_task("math:geometry", _options(tmp_path))


def _gold(item):
    """What a perfect workflow returns."""
    if item.entry_point:
        return item.metadata["program"]
    return item.metadata.get("answer", item.target)


async def test_gold_answers_are_graded_right_and_others_wrong_under_every_rule(tasks):
    packages = {package for task in tasks.values() for package in task.packages}
    async with opened("auto", packages=("numpy", *packages)) as sandbox:
        for name, task in tasks.items():
            for item in task.items(Split.VALIDATION):
                grades = [await task.grade(item, answer, sandbox) for answer in (_gold(item), "", "no idea at all")]
                assert [grade.score for grade in grades] == [1.0, 0.0, 0.0], (name, item.id, grades)
