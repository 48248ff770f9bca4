"""Questions about given paragraphs, answered by a few words: DROP, HotpotQA.

hub rows → **items with all references** → F1 grader

Sources: DROP (arXiv 1903.00161), HotpotQA (arXiv 1809.09600); AFlow's sizes (200
validation, 800 test) and rules, with our membership. Departure: the hub's `ucinlp/drop`
lists the spans of all annotators in one row; there each distinct span is a reference,
and so are all of them together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from w4s_jax.tasks.base import ItemTask, TaskOptions, check_variant
from w4s_jax.tasks.scoring.f1 import DropGrader, HotpotF1Grader
from w4s_jax.tasks.source import HubSource, Row
from w4s_jax.tasks.splits import split_pool
from w4s_jax.types import Item
from w4s_jax.workflows import seeds_for

_DROP = HubSource(name="drop", hub_id="ucinlp/drop")
_HOTPOTQA = HubSource(name="hotpotqa", hub_id="hotpotqa/hotpot_qa", config="distractor")

DROP_RULES = {"": DropGrader(), "bags": DropGrader(bags=True)}
"""By variant: `drop:bags` aligns the spans of an answer with those of a reference."""

_HOTPOT_RULE = HotpotF1Grader()

_DROP_FORM = "Answer with a number, a date, or words of the passage, as short as possible; separate several by ' | '."
_HOTPOT_FORM = "Answer with yes, no, or a few words."


# --- DROP -------------------------------------------------------------------


def load_drop(variant: str, options: TaskOptions) -> ItemTask:
    """Reading with arithmetic: 200 validation and 800 test items of the hub's validation split; mean F1.

    Args:
        variant: Whose F1, a key of `DROP_RULES`.
        options: Of the task; rows have the fields of `ucinlp/drop` or of `EleutherAI/drop`.

    Raises:
        InputError: An unknown variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("drop", variant, DROP_RULES)
    rows, origin = _DROP.read("validation", options.data_dir, options.revision)
    items = [_drop_item(index, row) for index, row in enumerate(rows)]
    cut = split_pool("drop", items, seed=options.split_seed, sizes=options.sizes)
    grader = DROP_RULES[variant]
    return ItemTask(
        name="drop" + (f":{variant}" if variant else ""),
        description=(
            "A passage and a question that takes counting, adding, comparing or sorting what the passage tells. "
            "The answer is as short as possible: a number, a date, or words of the passage; several of them are "
            'separated by " | ". It is scored by the F1 of its words.'
        ),
        splits=cut.items,
        grader=grader,
        rule=grader.rule,
        seeds=seeds_for("qa"),
        metric="f1",
        source=f"{origin}, {cut.how}",
    )


def _drop_item(index: int, row: Row) -> Item:
    references = _references(row)
    if not references:
        raise row.error("no answer has a number, a date or a span; give at least one reference")
    return Item(
        id=f"drop/{row.values.get('query_id') or index}",
        question=f"{row.text('passage').strip()}\n\nQuestion: {row.text('question').strip()}\n\n{_DROP_FORM}",
        target=references,
        metadata={"answer": " | ".join(references[0])},
    )


def _references(row: Row) -> list[list[str]]:
    """Distinct references, each a list of spans; the first is that of the question's author where it is known."""
    if "answer" not in row.values:
        answers = row.get("answers_spans")
        spans = _spans(row, {"spans": answers.get("spans") if isinstance(answers, Mapping) else answers})
        distinct = list(dict.fromkeys(spans))
        return [[span] for span in distinct] + ([distinct] if len(distinct) > 1 else [])
    given = [row.get("answer"), *_records(row.values.get("validated_answers"))]
    references = dict.fromkeys(tuple(_spans(row, answer)) for answer in given)
    return [list(spans) for spans in references if spans]


def _records(value: Any) -> list[Any]:
    """Records, whether they come as a list or, as the hub stores them, as a record of lists."""
    if not isinstance(value, Mapping):
        return [] if value is None else list(value) if isinstance(value, Sequence) else [value]
    columns = [_records(column) if isinstance(column, Mapping) else column for column in value.values()]
    if not all(isinstance(column, list) for column in columns):
        return [value]
    return [dict(zip(value, fields, strict=True)) for fields in itertools.zip_longest(*columns)]


def _spans(row: Row, answer: Any) -> list[str]:
    """Spans of one answer: its number, else its spans, else its date."""
    if not isinstance(answer, Mapping):
        raise row.error(f"an answer is {repr(answer)[:60]}; it must be an object with number, date and spans")
    number, spans, date = (answer.get(field) for field in ("number", "spans", "date"))
    if isinstance(spans, str) or not isinstance(spans or [], Sequence):
        raise row.error(f"field 'spans' of an answer is {repr(spans)[:60]}; it must be a list of texts")
    parts = [date.get(part) for part in ("day", "month", "year")] if isinstance(date, Mapping) else [date]
    forms = ([number], spans or [], [" ".join(str(part) for part in parts if part)])
    filled = ([text for value in form if value is not None and (text := str(value).strip())] for form in forms)
    return next((texts for texts in filled if texts), [])


# --- HotpotQA ---------------------------------------------------------------


def load_hotpotqa(variant: str, options: TaskOptions) -> ItemTask:
    """Questions that take two of ten paragraphs: 200 validation and 800 test items of the hub's validation split.

    Raises:
        InputError: A variant, no data, a bad row, or sizes that exceed it.
    """
    check_variant("hotpotqa", variant)
    rows, origin = _HOTPOTQA.read("validation", options.data_dir, options.revision)
    items = [_hotpotqa_item(index, row) for index, row in enumerate(rows)]
    cut = split_pool("hotpotqa", items, seed=options.split_seed, sizes=options.sizes)
    return ItemTask(
        name="hotpotqa",
        description=(
            "Ten paragraphs under their titles, and a question whose answer takes facts from two of them. "
            "The answer is as short as possible: yes, no, a name, a date or a few words of the paragraphs. "
            "It is scored by the F1 of its words."
        ),
        splits=cut.items,
        grader=_HOTPOT_RULE,
        rule=_HOTPOT_RULE.rule,
        seeds=seeds_for("qa"),
        metric="f1",
        source=f"{origin}, {cut.how}",
    )


def _hotpotqa_item(index: int, row: Row) -> Item:
    paragraphs = [f"{title}\n{text}" for title, text in _paragraphs(row)]
    return Item(
        id=f"hotpotqa/{row.values.get('id') or row.values.get('_id') or index}",
        question="\n\n".join([*paragraphs, f"Question: {row.text('question').strip()}", _HOTPOT_FORM]),
        target=row.text("answer").strip(),
        metadata={key: row.values[key] for key in ("type", "level") if isinstance(row.values.get(key), str)},
    )


def _paragraphs(row: Row) -> list[tuple[str, str]]:
    """Title and text of each paragraph, whether the context is a record of lists or a list of pairs."""
    context = row.get("context")
    try:
        pairs = zip(context["title"], context["sentences"], strict=True) if isinstance(context, Mapping) else context
        return [(str(title), " ".join(sentence.strip() for sentence in sentences)) for title, sentences in pairs]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wanted = "{title: […], sentences: [[…], …]} or a list of [title, [sentences]]"
        raise row.error(f"field 'context' is {repr(context)[:60]}; it must be {wanted}") from error
