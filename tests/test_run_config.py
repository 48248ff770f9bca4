"""A run as a value, and the lines of a flag file that stand for it, both ways."""

import dataclasses
import re
import subprocess
import sys

import pytest

from benchmarks.kill_and_resume import ROOT
from w4s_jax.run.config import OPTIMIZE_OPTIONS, RLAO_OPTIONS, RunConfig, SearchConfig, TaskConfig, TrainingConfig
from w4s_jax.run.directory import MAY_CHANGE_ON_RESUME, RunDirectory
from w4s_jax.run.meta_agent import resolved, with_settings
from w4s_jax.run.options import from_lines, name_and_text, options, replaced, to_lines
from w4s_jax.types import InputError

absl_flags = pytest.importorskip("absl.flags")
ALL = options(RunConfig)
UNLIKE = RunConfig(
    run_dir="a b",
    seed=7,
    tasks=TaskConfig(task=("toy_units", "jsonl:a,b.csv"), eval_task=('say "hi"',), task_description="dö.txt"),
    search=SearchConfig(num_turns=3, reward="repo", reward_low_penalty=-0.25),
    training=TrainingConfig(tau=1e-3, evaluate_before=False, eval_after_turns=("2", "5"), learning_rate=3e-5),
)


def test_the_lines_of_a_run_make_the_same_run():
    config = resolved(UNLIKE)
    assert from_lines(RunConfig(), to_lines(config, ALL).values()) == config


def test_the_lines_are_those_of_absl():
    """Each line is read by absl's own parser to the value of the field, and absl spells it the same way."""
    config, values = resolved(UNLIKE), absl_flags.FlagValues()
    define = {
        "text": absl_flags.DEFINE_string,
        "integer": absl_flags.DEFINE_integer,
        "number": absl_flags.DEFINE_float,
        "switch": absl_flags.DEFINE_boolean,
        "list": absl_flags.DEFINE_list,
    }
    for name, option in ALL.items():
        define[option.type](name, None, "", flag_values=values)
    lines = to_lines(config, ALL)
    values(["program", *lines.values()])
    for name in lines:
        read = values[name].value
        assert (tuple(read) if isinstance(read, list) else read) == ALL[name].value(config), name
        assert (values[name].serialize() or f"--{name}=") == lines[name]


def test_a_later_line_wins_and_comments_and_strangers_are_left_out():
    config = from_lines(RunConfig(), ["# why", "--tau=0.1", "", "--json_out=x", "--tau=0.2", "--noevaluate_before"])
    assert config == RunConfig(training=TrainingConfig(tau=0.2, evaluate_before=False))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--num_turns=0", "--num_turns=0 is not allowed; give at least 1"),
        ("--num_turns=two", "--num_turns='two' is not an integer; give one"),
        ("--tau=0", "--tau=0.0 is not allowed; give at least 0.001"),
        ("--target=1.5", "--target=1.5 is not allowed; give at least 0 and at most 1"),
        ("--reward=mine", "--reward=mine is not known; give one of paper, repo"),
        ("--evaluate_before=maybe", "--evaluate_before=maybe is neither true nor false"),
        ("--max_new_tokens=40000", "at most 32768"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(line, named):
    with pytest.raises(InputError, match=re.escape(named)):
        from_lines(RunConfig(), [line])


def test_values_that_do_not_fit_together_are_refused_however_they_are_set():
    with pytest.raises(InputError, match="--num_rounds=3 with --trajectories"):
        replaced(RunConfig(), {"num_rounds": 3, "trajectories": ("runs/a",)})
    fits = replaced(RunConfig(training=TrainingConfig(num_rounds=3)), {"num_rounds": 1, "trajectories": ("runs/a",)})
    assert fits.training.trajectories == ("runs/a",)


def test_every_option_has_one_name_a_sentence_and_a_default_that_it_takes():
    for name, option in ALL.items():
        assert re.fullmatch(r"[a-z_]+", name)
        assert option.help.endswith((".", ")"))
        assert option.checked(option.value(RunConfig())) == option.value(RunConfig())


def test_the_packaged_agent_decides_what_the_run_does_not():
    config = resolved(replaced(RunConfig(), {"temperature": 0.7}))
    assert (config.meta_agent.temperature, config.meta_agent.prompt_template) == (0.7, "compact")
    assert (config.meta_agent.cache_length, config.device.compute_dtype) == (640, "float32")
    general = with_settings(RunConfig(), {})
    assert (general.meta_agent.temperature, general.meta_agent.max_new_tokens) == (0.5, 4096)
    assert (general.meta_agent.prompt_template, general.device.compute_dtype) == ("full", "bfloat16")


def test_a_run_directory_decides_as_it_was_trained(tmp_path):
    (tmp_path / "hf").mkdir()
    trained = to_lines(replaced(resolved(RunConfig()), {"temperature": 0.25, "cache_length": 320}), RLAO_OPTIONS)
    (tmp_path / "run.flags").write_text("".join(f"{line}\n" for line in trained.values()))
    for folder in (tmp_path, tmp_path / "hf"):
        config = resolved(replaced(RunConfig(), {"meta_agent": str(folder), "max_new_tokens": 64}))
        agent = config.meta_agent
        assert (agent.temperature, agent.cache_length, agent.max_new_tokens) == (0.25, 320, 64)
        assert agent.prompt_template == "compact"


def test_an_option_that_an_older_run_did_not_know_is_as_its_default(tmp_path):
    lines = to_lines(resolved(RunConfig()), RLAO_OPTIONS - {"run_dir"})
    directory = RunDirectory(tmp_path)
    older = {name: line for name, line in lines.items() if name != "schedule"} | {"json_out": "--json_out="}
    with directory.opened(older):
        directory.trajectories.touch()
    with directory.opened(lines) as resumed:
        assert resumed
    (tmp_path / "run.flags").write_text("".join(f"{line}\n" for line in older.values()))
    with (
        pytest.raises(InputError, match="no --schedule became --schedule=cosine"),
        directory.opened(lines | {"schedule": "--schedule=cosine"}),
    ):
        pass


def test_budgets_and_speeds_may_change_and_what_decides_results_may_not():
    assert {"budget_usd", "concurrency", "mesh", "sandbox_workers", "run_dir", "remat"} <= MAY_CHANGE_ON_RESUME
    assert not {"seed", "tau", "task", "num_turns", "executor_model", "temperature"} & MAY_CHANGE_ON_RESUME


def test_configs_are_values():
    assert dataclasses.replace(UNLIKE) == UNLIKE
    assert hash(UNLIKE) == hash(dataclasses.replace(UNLIKE))
    with pytest.raises(dataclasses.FrozenInstanceError):
        UNLIKE.seed = 1


def test_a_search_has_no_options_of_training_and_a_training_none_of_a_search():
    assert "tau" not in OPTIMIZE_OPTIONS
    assert "strategy" not in RLAO_OPTIONS
    assert {"meta_agent", "task", "budget_usd"} <= OPTIMIZE_OPTIONS & RLAO_OPTIONS


def test_the_config_is_loaded_without_jax_and_without_absl():
    code = (
        "import sys; sys.modules['jax'] = sys.modules['absl'] = None; import w4s_jax.run.search, w4s_jax.run.evaluation"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_names_and_texts_of_lines():
    assert name_and_text("--task=a=b") == ("task", "a=b")
    assert name_and_text("--test") == ("test", "true")


def test_a_loss_that_needs_sampled_actions_refuses_repairs_before_anything_is_spent():
    grpo = {"loss": "grpo", "weights": "group"}
    with pytest.raises(InputError, match=r"--loss=grpo with --max_repairs=3.*give --max_repairs=0"):
        replaced(RunConfig(), grpo)
    assert replaced(RunConfig(), grpo | {"max_repairs": 0}).training.loss_config.kind == "grpo"
    with pytest.raises(InputError, match="give --weights=group"):
        replaced(RunConfig(), {"loss": "grpo", "max_repairs": 0})
