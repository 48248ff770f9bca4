"""`experiments.score`, run as a user runs it."""

import json
import math
import subprocess
import sys

import pytest
from commands import run_command
from transformers import AutoTokenizer

from benchmarks.kill_and_resume import ROOT
from w4s_jax.run.models import TINY

DIALOGUE = [
    {"role": "user", "content": "Write a workflow. <|im_end|>"},
    {"role": "assistant", "content": "def solver(agent, task):\n    return {'answer': 1}"},
]


def score(*arguments):
    command = [sys.executable, "-m", "experiments.score", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_text_is_scored_token_by_token(tmp_path):
    text = "def solver(agent, task):\n    return {'answer': agent}\n"
    (tmp_path / "text").write_text(text)
    done = score("--model=tiny", f"--text_file={tmp_path / 'text'}", f"--json_out={tmp_path / 'out.json'}")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["token_ids"] == AutoTokenizer.from_pretrained(TINY)(text)["input_ids"]
    assert len(result["logprobs"]) == len(result["token_ids"])
    assert result["logprobs"][0] is None
    assert result["sum"] == pytest.approx(math.fsum(result["logprobs"][1:]))
    assert done.stdout.startswith(f"{len(result['token_ids'])} tokens, sum of log-probabilities {result['sum']:.6f}")


def test_a_dialogue_is_rendered_by_the_template_and_its_text_opens_no_turn(tmp_path):
    (tmp_path / "chat.json").write_text(json.dumps(DIALOGUE))
    done = score("--model=tiny", f"--chat_file={tmp_path / 'chat.json'}", f"--json_out={tmp_path / 'out.json'}")
    assert done.returncode == 0, done.stderr
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    ids = json.loads((tmp_path / "out.json").read_text())["token_ids"]
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(DIALOGUE, tokenize=False)
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == len(DIALOGUE)


@pytest.mark.parametrize(
    ("content", "flag", "said"),
    [
        ("", "text_file", "holds no token"),
        ("{", "chat_file", "is not JSON"),
        ("[]", "chat_file", "must hold a list"),
        ('[{"role": "user"}]', "chat_file", "must hold a list"),
    ],
)
def test_bad_input_is_one_line(tmp_path, content, flag, said):
    (tmp_path / "given").write_text(content)
    done = run_command("score", "--model=tiny", f"--{flag}={tmp_path / 'given'}")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_model_that_is_not_there_is_named_by_its_flag(tmp_path):
    (tmp_path / "text").write_text("x")
    done = run_command("score", "--model=/nowhere/at/all", f"--text_file={tmp_path / 'text'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --model=/nowhere/at/all is neither")
