"""Word problems in eleven languages: MGSM.

hub rows of each language → **items split by problem** → numeric grader

Source: arXiv 2210.03057: 250 problems of GSM8K, translated. Departure: they are split by
problem, so that no test problem stands in validation in another language.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from w4s_jax.tasks.base import ItemTask, TaskOptions
from w4s_jax.tasks.math import NEAR, number_in
from w4s_jax.tasks.source import HubSource, Row
from w4s_jax.tasks.splits import SplitSizes, published_sizes, resize, shuffled
from w4s_jax.types import InputError, Item, Split
from w4s_jax.workflows import seeds_for

LANGUAGES = {
    "bn": "Bengali",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "ja": "Japanese",
    "ru": "Russian",
    "sw": "Swahili",
    "te": "Telugu",
    "th": "Thai",
    "zh": "Chinese",
}
"""Configurations of MGSM with what the meta-agent reads."""


def load_mgsm(variant: str, options: TaskOptions) -> ItemTask:
    """GSM8K problems in other languages: of 250 problems 50 are validation, 200 are test.

    A prefix of a split holds as many different problems as it can, its languages in turn. A larger
    validation split takes the problems that a smaller test split leaves out in every language.

    Args:
        variant: Configurations of MGSM, `en+de`; empty takes all that have a local file, else all eleven.
        options: Of the task.

    Raises:
        InputError: An unknown language, no data, a bad row, or sizes that exceed it.
    """
    languages = variant.split("+") if variant else ()
    chosen = _languages(languages, options.data_dir)
    read = {lang: _mgsm_source(lang).read("test", options.data_dir, options.revision) for lang in chosen}
    by_language = {lang: _mgsm_items(lang, rows) for lang, (rows, _) in read.items()}
    problems = min(len(items) for items in by_language.values())
    orders = {lang: shuffled(items[:problems], options.split_seed) for lang, items in by_language.items()}
    held_out = problems // 5
    names = ", ".join(LANGUAGES[lang] for lang in chosen)
    return ItemTask(
        name="mgsm" + (":" + "+".join(languages) if languages else ""),
        description=f"Grade-school word problems in {names}. The answer is one number.",
        splits=resize(
            {
                Split.VALIDATION: _in_turn([order[:held_out] for order in orders.values()]),
                Split.TEST: _in_turn([order[held_out:] for order in orders.values()]),
            },
            _sizes(options.sizes, held_out * len(chosen), (problems - held_out) * len(chosen)),
            group=_problem,
        ),
        grader=NEAR,
        rule=NEAR.rule,
        seeds=seeds_for("math"),
        source=f"{read[chosen[0]].origin} in {'+'.join(chosen)}, split by problem, seed {options.split_seed}; no train",
    )


def _sizes(sizes: SplitSizes, validation: int, test: int) -> SplitSizes:
    """Those of a name, where one is given, under those asked for; the splits hold so many items without.

    Raises:
        InputError: They hold fewer than the name's.
    """
    if not sizes.named:
        return sizes
    published = published_sizes("mgsm", sizes.named)
    if published.validation > validation or published.test > test:
        raise InputError(
            f"split_sizes={sizes.named!r} takes {published.validation} / {published.test} items of mgsm and these "
            f"languages have {validation} / {test}; name more of them, or leave it empty"
        )
    return dataclasses.replace(
        sizes,
        validation=published.validation if sizes.validation is None else sizes.validation,
        test=published.test if sizes.test is None else sizes.test,
    )


def _mgsm_source(language: str) -> HubSource:
    return HubSource(
        name="mgsm",
        hub_id="juletxara/mgsm",
        config=language,
        config_in_files=True,
        revision="refs/convert/parquet",
    )


def _languages(languages: Sequence[str], data_dir: Path | None) -> Sequence[str]:
    for language in languages:
        if language not in LANGUAGES:
            raise InputError(f"mgsm language {language!r} is unknown; take some of {', '.join(LANGUAGES)}")
    local = [lang for lang in LANGUAGES if _mgsm_source(lang).find_file("test", data_dir)]
    return tuple(dict.fromkeys(languages)) or local or tuple(LANGUAGES)


def _mgsm_items(language: str, rows: Sequence[Row]) -> list[Item]:
    return [
        Item(id=f"mgsm/{language}/{i}", question=row.text("question"), target=number_in(row, "answer_number"))
        for i, row in enumerate(rows)
    ]


def _problem(item: Item) -> str:
    """Its number, the same in all languages."""
    return item.id.rpartition("/")[2]


def _in_turn(orders: Sequence[Sequence[Item]]) -> list[Item]:
    """Pass by pass over the problems, each problem's language shifted by one a pass."""
    passes = range(len(orders))
    return [orders[(i + shift) % len(orders)][i] for shift in passes for i in range(len(orders[0]))]
