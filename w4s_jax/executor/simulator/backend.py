"""The simulated executor in the process: a Backend without network, key or cost.

ChatRequest → read → ResponseModel → reply_text → **ChatReply**

Replies depend on the request's text, its parameters and the sample's number alone,
so this back end and the server on loopback give the same ones.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator
from statistics import NormalDist

from w4s_jax.executor.simulator.answers import AnswerForm
from w4s_jax.executor.simulator.model import ErrorKind, Feature, ResponseModel, SampleId, uniform
from w4s_jax.executor.simulator.problems import Problem, gold_of, problem_from_item
from w4s_jax.executor.simulator.reading import Features, QuestionIndex, Reading, read, squeeze
from w4s_jax.executor.simulator.replies import no_question, reply_text
from w4s_jax.types import CallContext, ChatReply, ChatRequest, Item, SealedSplitError, Split, Task, Usage

_LOG = logging.getLogger(__name__)

MODEL_NAME = "simulated"

_CHARS_PER_TOKEN = 4
_NORMAL = NormalDist()
_MOST_REQUESTS = 10_000
"""Kinds of request whose factors are kept."""
_MESSAGE_TOKENS = 4
"""Tokens that each message costs beside its text."""


class SimulatedBackend:
    """Answers the questions it was given, as well as the request asks for them.

    Attributes:
        model: Name of the model.
        simulated: Always true.
        response_model: The parameters.

    Example:
        >>> backend = SimulatedBackend()
        >>> backend.register([Item(id="x/1", question="What is 2 + 2?", target=4)])
        >>> len(backend)
        1
    """

    simulated = True

    def __init__(
        self, *, tasks: Iterable[Task] = (), response_model: ResponseModel | None = None, model: str = MODEL_NAME
    ) -> None:
        """Knows every item of `tasks`, those of a sealed test split included where the task gives them."""
        self.model = model
        self.response_model = response_model or ResponseModel()
        self._index = QuestionIndex()
        self._items: dict[str, Item] = {}
        self._problems: dict[str, Problem] = {}
        """Those that were asked: deriving one takes longer than a reply."""
        self._factors: dict[tuple[frozenset[Feature], int, float], dict[ErrorKind, float]] = {}
        for task in tasks:
            self.register(_all_items(task))

    def __len__(self) -> int:
        return len(self._items)

    def register(self, items: Iterable[Item]) -> None:
        """Adds items; of equal questions the first one registered stays.

        An item without a known gold answer is left out, so that its question gets the reply of
        an unknown one; a warning counts them.
        """
        unanswerable, given = [], 0
        for item in items:
            given += 1
            question = squeeze(item.question)
            if gold_of(item) is None:
                unanswerable.append(item.id)
            elif question and question not in self._items:
                self._items[question] = item
                self._index.add(question)
        if unanswerable:
            warning = "simulated executor: %d of %d items, e.g. %s, have no known gold answer and are not answered"
            _LOG.warning(warning, len(unanswerable), given, unanswerable[0])

    async def send(self, request: ChatRequest, context: CallContext) -> ChatReply:
        """Returns the reply; never fails."""
        return self.reply(request, SampleId(context.repetition, context.sample_index))

    async def close(self) -> None:
        """Nothing to release."""

    def reply(self, request: ChatRequest, call: SampleId) -> ChatReply:
        """Returns the reply to one call.

        Args:
            request: What is asked.
            call: Repetition and number of the call among equal ones of the item; its
                choices are the samples `call.number * n` to `call.number * n + n - 1`.
        """
        reading = read(request.messages, self._index, request.json_mode)
        texts, reasons, tokens = [], [], 0
        for choice in range(request.n):
            sample = SampleId(call.repetition, call.number * request.n + choice)
            text, reason = _cut(self._text(reading, request.temperature, sample), request.max_tokens)
            texts.append(text)
            reasons.append(reason)
            tokens += count_tokens(text)
        prompt_tokens = sum(count_tokens(m.content) + _MESSAGE_TOKENS for m in request.messages)
        usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=tokens)
        return ChatReply(texts=tuple(texts), finish_reasons=tuple(reasons), usage=usage)

    def seconds(self, request: ChatRequest, call: SampleId, reply: ChatReply, *, sigma: float = 0.0) -> float:
        """How long a hosted model would take for a reply.

        Choices are written side by side, so the longest one counts. The time to the first
        token and the time a token are each multiplied by a log-normal factor of median 1.

        Args:
            request: What was asked.
            call: Which of several equal calls.
            reply: To it.
            sigma: Standard deviation of the factors' logarithms.
        """
        key = f"{request.temperature}/{request.n}/{[m.content for m in request.messages]}"
        draws = (min(max(uniform(key, what, call), 1e-12), 1 - 1e-12) for what in ("first", "each"))
        factors = (math.exp(sigma * _NORMAL.inv_cdf(draw)) for draw in draws)
        tokens = max(map(count_tokens, reply.texts), default=0)
        return self.response_model.latency(tokens, *factors)

    def _text(self, reading: Reading, temperature: float, sample: SampleId) -> str:
        if reading.question is None:
            return no_question(reading.features)
        problem = self._problem(reading.question)
        if temperature <= 0:
            sample = SampleId(0, 0)
        return reply_text(problem, self._struck(problem, reading, temperature, sample), reading.features, sample)

    def _problem(self, question: str) -> Problem:
        if question not in self._problems:
            self._problems[question] = problem_from_item(self._items[question])
        return self._problems[question]

    def _struck(self, problem: Problem, reading: Reading, temperature: float, sample: SampleId) -> frozenset[ErrorKind]:
        """The kinds of error that strike a sample."""
        model = self.response_model
        factors = self._request_factors(reading.features, temperature)
        struck = {
            kind
            for kind, base in problem.profile.items()
            if problem.strikes(kind, min(model.highest_rate, base * factors[kind]), sample)
        }
        breaks = Feature.CRITIQUE in reading.features.present and problem.luck["break"] < model.broken_by_critique
        if breaks and _holds(reading.earlier, problem):
            struck.add(ErrorKind.PLANNING)
        return frozenset(struck)

    def _request_factors(self, features: Features, temperature: float) -> dict[ErrorKind, float]:
        key = (features.present, features.junk, temperature)
        if key not in self._factors:
            if len(self._factors) >= _MOST_REQUESTS:
                self._factors.clear()
            self._factors[key] = self.response_model.factors(*key)
        return self._factors[key]


def _all_items(task: Task) -> Iterator[Item]:
    """Items of every split; `answer_key` of a sealed task is for the simulator alone."""
    answer_key = getattr(task, "answer_key", None)
    if answer_key is not None:
        yield from answer_key()
        return
    for split in Split:
        try:
            yield from task.items(split)
        except SealedSplitError:
            continue  # registered by whoever opens it


def _holds(earlier: str, problem: Problem) -> bool:
    """Whether an earlier answer is the right one."""
    if problem.form in (AnswerForm.LETTER, AnswerForm.WORDS):
        return re.search(rf"(?<!\w){re.escape(squeeze(problem.answer))}(?!\w)", squeeze(earlier)) is not None
    if problem.form is AnswerForm.FORMULA:
        return squeeze(problem.answer) in squeeze(earlier)
    text = earlier if problem.is_code else earlier.replace(",", "")
    return squeeze(problem.answer) in squeeze(text) or squeeze(problem.program) in squeeze(earlier)


def count_tokens(text: str) -> int:
    """A token for every four characters begun."""
    return -(-len(text) // _CHARS_PER_TOKEN)


def _cut(text: str, max_tokens: int | None) -> tuple[str, str]:
    if max_tokens is None or count_tokens(text) <= max_tokens:
        return text, "stop"
    return text[: max_tokens * _CHARS_PER_TOKEN], "length"
