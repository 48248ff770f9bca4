"""Makes the packaged tiny meta-agent from scratch: `python -m experiments.warm_start --output_dir=DIR`.

dialogues → tokenizer → **supervised training** → Hugging Face folder

The agent learns the format, the dialect and to spread over the ingredients from
procedurally generated states and workflows, bad ones included
(`w4s_jax/workflows/dialogues.py`). It sees no held-out family and no measured
accuracy. The same trainer, trees and export as a 7B are used.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from w4s_jax.policy.chat import Chat
from w4s_jax.policy.config import Family, ModelConfig
from w4s_jax.policy.hf import save_checkpoint
from w4s_jax.policy.sharding import make_mesh
from w4s_jax.policy.transformer import Transformer, init_variables
from w4s_jax.prompts import CompactTemplate
from w4s_jax.run.config import RunConfig
from w4s_jax.run.progress import Progress
from w4s_jax.tasks.toy import FAMILIES, SEEN
from w4s_jax.training.config import LearnerConfig, OptimizerConfig
from w4s_jax.training.learner import Learner
from w4s_jax.training.step import Trainer
from w4s_jax.training.weights import BestAction
from w4s_jax.types import Candidate, CandidateStatus, InputError, Message, Trajectory, Turn
from w4s_jax.workflows.dialogues import DialogueMix, Subject, dialogue

from . import app
from .flags import Flags

PyTree = Any

FLAGS = Flags(RunConfig(), ())
_OUTPUT = flags.DEFINE_string("output_dir", "", "Folder that the checkpoint is written to.", flag_values=FLAGS.values)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of dialogues and parameters.", flag_values=FLAGS.values)
_STEPS = flags.DEFINE_integer("steps", 400, "Optimiser steps.", lower_bound=1, flag_values=FLAGS.values)
_BATCH = flags.DEFINE_integer(
    "dialogues_per_step", 32, "Dialogues in one step.", lower_bound=1, flag_values=FLAGS.values
)
_RATE = flags.DEFINE_float(
    "learning_rate", 3e-3, "Peak learning rate; a cosine takes it to a tenth.", flag_values=FLAGS.values
)
_VOCAB = flags.DEFINE_integer(
    "vocab_size", 1024, "Entries of the tokenizer.", lower_bound=300, flag_values=FLAGS.values
)
_LAYERS = flags.DEFINE_integer("num_layers", 4, "Layers.", lower_bound=1, flag_values=FLAGS.values)
_WIDTH = flags.DEFINE_integer("embed_dim", 128, "Width; heads are 32 wide.", lower_bound=32, flag_values=FLAGS.values)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAX_POSITIONS = 4096
ROW_LENGTH, ROWS = 384, 4


def subjects() -> tuple[Subject, ...]:
    """The seen families as dialogues name them."""
    return tuple(Subject(description=FAMILIES[n].description, code_task=not FAMILIES[n].templates) for n in SEEN)


def draw(seed: str) -> Iterator[tuple[Message, ...]]:
    """An endless stream of dialogues."""
    rng, template, mix, names = random.Random(seed), CompactTemplate(), DialogueMix(), subjects()
    while True:
        yield dialogue(rng, names, template, mix)


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE whose entries may span words, but neither a line's end nor one of `.,=(`.

    A workflow of 150 word-level tokens is 42 of these, and every choice within it is
    still a token of its own.
    """
    tokenizer = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(r"[^\n.,=(]*[\n.,=(]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a tokenizer folder with its chat template."""
    from transformers import PreTrainedTokenizerFast  # takes seconds to import

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def check_tokenizer(trained: Chat, folder: Path, texts: Sequence[str]) -> None:
    """Refuses a folder whose tokenizer, as `transformers` loads it beside config.json, is not the one trained with.

    Raises:
        InputError: It splits a text differently.
    """
    loaded = Chat.load(folder)
    for text in texts:
        if loaded.encode_action(text) != trained.encode_action(text):
            raise InputError(f"{folder} is loaded with another tokenizer than it was trained with, e.g. for {text!r}")


def as_trajectory(messages: Sequence[Message], chat: Chat) -> Trajectory:
    """A dialogue as a trajectory of one candidate a turn, so that the trainer of RLAO trains it."""
    turns: list[Turn] = []
    prompt: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    for number, (asked, answer) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
        prompt = chat.extend(prompt, ids, [asked]) if turns else chat.render([asked])
        ids = chat.encode_action(answer.content)
        candidate = Candidate(index=0, status=CandidateStatus.OK, text=answer.content, ids=ids)
        turns.append(
            Turn(
                round=0,
                trajectory=0,
                turn=number,
                task="warm_start",
                messages=tuple(messages[: 2 * number + 1]),
                prompt_ids=prompt,
                candidates=(candidate,),
                chosen=0,
            )
        )
    return Trajectory(round=0, index=0, task="warm_start", turns=tuple(turns))


def model_config(vocab_size: int, num_layers: int, embed_dim: int) -> ModelConfig:
    """A Qwen3 decoder with heads of 32, half as many for keys and values.

    Not Qwen2: for its `model_type`, transformers 5 puts a pre-tokenizer of its own in the place of the folder's.
    """
    return ModelConfig(
        family=Family.QWEN3,
        vocab_size=vocab_size,
        num_layers=num_layers,
        embed_dim=embed_dim,
        num_heads=embed_dim // 32,
        num_kv_heads=embed_dim // 64,
        head_dim=32,
        mlp_dim=embed_dim * 11 // 4,
        rope_theta=10_000.0,
        tie_embeddings=True,
        max_positions=MAX_POSITIONS,
    )


def train(chat: Chat, config: ModelConfig) -> PyTree:
    """Supervised training on fresh dialogues; returns the `params` collection."""
    steps, batch = _STEPS.value, _BATCH.value
    model = Transformer(config=config, compute_dtype="float32", remat="none")
    optimizer = OptimizerConfig(
        learning_rate=_RATE.value, schedule_name="cosine", warmup_steps=steps // 20, total_steps=steps
    )
    trainer = Trainer(model=model, mesh=make_mesh("", jax.devices()[:1]), optimizer=optimizer)
    state = trainer.init_state(init_variables(model, jax.random.key(_SEED.value)))
    shapes = LearnerConfig(row_length=ROW_LENGTH, rows_per_batch=ROWS, trajectories_per_step=batch)
    learner = Learner(trainer, state, BestAction(), shapes)
    stream = draw(f"training {_SEED.value}")
    with Progress("warm start", steps) as progress:
        for _ in range(steps * batch):
            record = learner.feed(as_trajectory(next(stream), chat))
            if record is not None:
                progress.advance(nll=f"{record.metrics.nll_per_token:.3f}", tokens=record.tree_tokens)
    return learner.state.params["params"]


def main() -> None:
    """Draws, trains, exports."""
    if not _OUTPUT.value:
        raise InputError("--output_dir is empty; give the folder to write the checkpoint to")
    output = Path(_OUTPUT.value)
    with tempfile.TemporaryDirectory() as folder:
        stream = draw(f"tokenizer {_SEED.value}")
        texts = [message.content for _ in range(20_000) for message in next(stream)]
        save_tokenizer(train_tokenizer(texts, _VOCAB.value), Path(folder))
        chat = Chat.load(folder)
        config = model_config(_VOCAB.value, _LAYERS.value, _WIDTH.value)
        params = train(chat, config)
        generation = {"eos_token_id": chat.end_of_turn}
        save_checkpoint(output, config, params, tokenizer_dir=folder, generation=generation, overwrite=True)
        check_tokenizer(chat, output, texts[:100])
    print(f"wrote {output}")


if __name__ == "__main__":
    app.run(main, FLAGS)
