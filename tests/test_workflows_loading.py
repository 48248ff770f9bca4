"""Seeds by family and workflows from files: what is loaded, and what is refused."""

from pathlib import Path

import pytest

from w4s_jax import workflows
from w4s_jax.types import InputError
from w4s_jax.workflows import load_seed, load_workflow, load_workflow_file, seed_names, seeds_for, seeds_of

FAMILIES = ("math", "code", "qa", "toy", "toy_code")


def test_a_search_starts_from_a_few_seeds_of_its_family_the_plain_one_first():
    assert {family: [seed.name for seed in seeds_for(family)] for family in FAMILIES} == {
        "math": ["cot", "cot_sc", "program"],
        "code": ["generate", "generate_and_test", "reflect_on_public_tests"],
        "qa": ["qa_cot", "qa_cot_sc", "qa_self_refine"],
        "toy": ["toy_direct", "toy_cot", "toy_vote"],
        "toy_code": ["code_direct", "code_test"],
    }


def test_the_seeds_of_a_family_begin_with_those_that_a_search_starts_from_and_every_name_is_of_one_family():
    for family in FAMILIES:
        assert seeds_of(family)[: len(seeds_for(family))] == seeds_for(family)
    names = [seed.name for family in FAMILIES for seed in seeds_of(family)]
    assert sorted(names) == sorted(set(seed_names()))
    assert {"direct", "self_refine", "debate", "step_back", "role"} < {seed.name for seed in seeds_of("math")}
    assert {name.removeprefix("qa_") for name in names if name.startswith("qa_")} == {
        "direct", "cot", "cot_sc", "self_refine", "debate", "step_back", "role",
    }  # fmt: skip
    files = {path.stem for path in (Path(workflows.__file__).parent / "seeds").glob("*.py")}
    assert files == {"__init__", *seed_names()}


def test_an_unknown_seed_or_family_is_refused_with_the_nearest():
    with pytest.raises(InputError, match="'cot_cs' is unknown, did you mean 'cot_sc'"):
        load_seed("cot_cs")
    with pytest.raises(InputError, match="'poetry' is unknown; known are math"):
        seeds_for("poetry")
    with pytest.raises(InputError, match="'poetry' is unknown; known are math"):
        seeds_of("poetry")


def test_a_workflow_file_is_loaded_by_its_path_and_not_run(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("raise SystemExit\ndef solver(agent, task):\n    return {'answer': 1}\n")
    assert load_workflow(str(path)) == load_workflow_file(path)
    assert load_workflow(str(path)).name == "mine"
    assert load_workflow("cot") == load_seed("cot")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"def solver(agent, task)\n", r"bad\.py:1: expected ':'"),
        (b"x = 1\n\ndef solver(a, t):\n  if:\n", r"bad\.py:4: invalid syntax"),
        (b"def solve(agent, task): pass\n", "has no solver"),
        (b"class A:\n    def solver(agent, task): pass\n", "has no solver"),
        (b"", "has no solver"),
        (b"\xff\xfe", "cannot be read"),
        (b"def solver(): pass\x00", "null bytes"),
    ],
)
def test_a_bad_workflow_file_is_one_line_of_input_error(tmp_path, content, message):
    path = tmp_path / "bad.py"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_workflow_file(path)
    assert "\n" not in str(error.value)


def test_a_missing_workflow_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.py cannot be read"):
        load_workflow(str(tmp_path / "none.py"))
