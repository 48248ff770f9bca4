"""Log-probabilities of a text under a checkpoint: `python -m experiments.score --model=DIR_OR_ID --text_file=F`.

text or dialogue → ids → **log p(token | the ones before)** → JSON
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import flags

from w4s_jax.policy.chat import Chat
from w4s_jax.policy.transformer import Transformer
from w4s_jax.run.config import DeviceConfig, RunConfig
from w4s_jax.run.models import load_model, open_mesh
from w4s_jax.run.options import names_of
from w4s_jax.training.scoring import token_logprobs
from w4s_jax.types import InputError, Message

from . import app
from .flags import Flags

SCHEMA_VERSION = 1

FLAGS = Flags(RunConfig(device=DeviceConfig(compute_dtype="float32")), names_of(DeviceConfig))

MODEL = flags.DEFINE_string("model", "", "Hugging Face folder or id, run directory, or tiny.", flag_values=FLAGS.values)
TEXT_FILE = flags.DEFINE_string(
    "text_file", "", "UTF-8 text to score, special tokens included.", flag_values=FLAGS.values
)
CHAT_FILE = flags.DEFINE_string(
    "chat_file",
    "",
    "JSON list of {role, content} to score, rendered by the model's chat template.",
    flag_values=FLAGS.values,
)
JSON_OUT = flags.DEFINE_string(
    "json_out", "", "Write token_ids, logprobs and sum to this file.", flag_values=FLAGS.values
)


def main() -> None:
    """Scores one text and says its sum."""
    device = FLAGS.config().device
    if not MODEL.value:
        raise InputError("--model is empty; give a Hugging Face folder or id, a run directory, or tiny")
    if bool(TEXT_FILE.value) == bool(CHAT_FILE.value):
        raise InputError("give one of --text_file and --chat_file")
    mesh = open_mesh(device.mesh)
    loaded = load_model(MODEL.value, mesh, device.param_dtype, flag="model")
    ids = token_ids(Chat.load(loaded.folder))
    model = Transformer(
        config=loaded.config,
        compute_dtype=jnp.dtype(device.compute_dtype),
        param_dtype=jnp.dtype(device.param_dtype),
        mesh=mesh,
        remat="none",
    )
    logprobs = [None, *map(float, token_logprobs(model, loaded.merged, ids, mesh)[1:])]
    total = math.fsum(x for x in logprobs if x is not None)
    if jax.process_index() != 0:
        return
    result = {"schema_version": SCHEMA_VERSION, "token_ids": list(ids), "logprobs": logprobs, "sum": total}
    if JSON_OUT.value:
        write_json(Path(JSON_OUT.value), result)
    print(f"{len(ids)} tokens, sum of log-probabilities {total:.6f}" + perplexity(total, len(ids) - 1))


def token_ids(chat: Chat) -> tuple[int, ...]:
    """Ids of what is to be scored.

    Raises:
        InputError: A file cannot be read, is empty, or holds no dialogue.
    """
    if TEXT_FILE.value:
        ids = chat.encode_text(read_text(TEXT_FILE.value))
        if not ids:
            raise InputError(f"--text_file={TEXT_FILE.value} holds no token; give a text")
        return ids
    return chat.encode_dialogue(read_dialogue(CHAT_FILE.value))


def read_text(path: str) -> str:
    """The content of a UTF-8 file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}; give a UTF-8 file") from None


def read_dialogue(path: str) -> list[Message]:
    """The messages of a JSON file.

    Raises:
        InputError: It is not a list of objects with the texts `role` and `content`.
    """
    try:
        given: Any = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"--chat_file={path} is not JSON: {error}") from None
    fits = isinstance(given, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in given
    )
    if not given or not fits:
        raise InputError(f'--chat_file={path} must hold a list like [{{"role": "user", "content": "…"}}], not empty')
    return [Message(role=m["role"], content=m["content"]) for m in given]


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Writes the result whole.

    Raises:
        InputError: It cannot be written.
    """
    try:
        path.write_text(json.dumps(result) + "\n")
    except OSError as error:
        raise InputError(f"--json_out={path} cannot be written: {error}; give another file") from None


def perplexity(total: float, tokens: int) -> str:
    """E.g. `, perplexity 3.21`; empty for a single token."""
    return f", perplexity {math.exp(-total / tokens):.4g}" if tokens else ""


if __name__ == "__main__":
    app.run(main, FLAGS)
