"""Records that cross a border, the Protocols of the package, and its error tree.

task → State → prompt → Policy.sample → Candidate → Sandbox ⇄ Executor → Evaluation
→ Feedback → reward → Turn → Trajectory → store → tree → step

The host half (text, processes, network) and the device half (arrays) do not
import each other; they meet here and in the runs. This module is standard
library only.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

BINARY_METRICS = frozenset({"accuracy", "pass@1"})
"""Names of the metrics under which an item is right or wrong, so that score and accuracy are one number."""

_TURN_NAME = re.compile(r"r(\d+)-t(\d+)-turn(\d+)(?:-c(\d+))?")

# --- errors -----------------------------------------------------------------


class W4sError(Exception):
    """Root of every error this package raises on purpose."""


class InputError(W4sError, ValueError):
    """Bad input: one line with the thing, its value, what is allowed, the remedy."""


class BudgetExceededError(W4sError, RuntimeError):
    """A cap on USD, tokens, calls or seconds leaves no room for the next call."""


class ExecutorError(W4sError, ConnectionError):
    """The executor could not be reached or kept failing: our failure, not the workflow's."""


class SandboxError(W4sError, RuntimeError):
    """The sandbox could not start or died: our failure, not the workflow's."""


class StoreError(W4sError, OSError):
    """A run directory cannot be read or written."""


class CheckpointError(W4sError, OSError):
    """A checkpoint is missing, corrupt or of another shape."""


class NumericsError(W4sError, FloatingPointError):
    """A loss or gradient norm is not finite; raised before the update."""


class SealedSplitError(W4sError, PermissionError):
    """Test items were asked for before the closing evaluation."""


class CallRefusedError(W4sError, RuntimeError):
    """A workflow's LLM call is refused (too many, malformed); it sees the message and may go on."""


# --- closed sets ------------------------------------------------------------


class Split(enum.StrEnum):
    """Our splits; each task says how they map to its source."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Purpose(enum.StrEnum):
    """What a call is booked under in the ledger."""

    META_AGENT = "meta_agent"
    OPTIMISATION = "optimisation"
    TEST = "test"


class ItemStatus(enum.StrEnum):
    """Outcome of one workflow on one item."""

    RIGHT = "right"
    WRONG = "wrong"
    BROKE = "broke"
    NOT_EVALUATED = "not_evaluated"


class CandidateStatus(enum.StrEnum):
    """`ok`: evaluated; `skipped`: its error persisted; `failed`: ours, never trained on."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"


class StopReason(enum.StrEnum):
    """Why a sample ended."""

    END_OF_TURN = "end_of_turn"
    LENGTH = "length"


class RunStatus(enum.StrEnum):
    """How a guarded child ended; everything but `ok` is the workflow's own failure."""

    OK = "ok"
    EXCEPTION = "exception"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    MALFORMED = "malformed"


# --- tasks ------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class SolverInput:
    """What a workflow is given of an item: all that enters the sandbox.

    Example:
        >>> SolverInput(question="What is 2 + 2?").entry_point is None
        True
    """

    question: str
    """The `task` argument of `solver`."""
    entry_point: str | None = None
    """Name of the function to write, for code tasks; None elsewhere."""
    public_tests: tuple[str, ...] = ()
    """Assertions the workflow may see and run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One question with its gold answer. The target never leaves the parent process.

    Example:
        >>> Item(id="gsm_hard/7", question="…", target=42.0).solver_input().question
        '…'
    """

    id: str
    """Unique within its task and stable over runs."""
    question: str
    """The text given to `solver` as `task`."""
    target: Any
    """Gold answer, or the hidden tests of a code item; JSON-serialisable."""
    entry_point: str | None = None
    """Function to write, for code items."""
    public_tests: tuple[str, ...] = ()
    """Assertions shown to the workflow."""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Facts for the parent alone (gold program, difficulty); JSON-serialisable."""

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all that decides an outcome on it, in hex; tells two items of one id apart."""
        content = [self.question, self.target, self.entry_point, self.public_tests]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def solver_input(self) -> SolverInput:
        """The part of the item that a workflow sees."""
        return SolverInput(question=self.question, entry_point=self.entry_point, public_tests=self.public_tests)


class Grade(NamedTuple):
    """A graded answer."""

    score: float
    """In [0, 1], the benchmark's own metric; right iff 1.0."""
    symptom: str = ""
    """What the parent can see of a wrong answer, e.g. `no number`; empty where right."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workflow:
    """Python source that defines `solver(agent, task)` and returns a dict with `answer`.

    Example:
        >>> Workflow(name="direct", code="def solver(agent, task): ...").digest[:4]
        'f884'
    """

    name: str
    code: str

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the code, in hex."""
        return hashlib.sha256(self.code.encode("utf-8", "surrogatepass")).hexdigest()


class Task(Protocol):
    """A set of questions with a scoring rule."""

    name: str
    """As `--task` names it."""
    description: str
    """What the meta-agent reads of the task."""
    metric: str
    """`accuracy` or `pass@1`, where an item is right or wrong; `f1` or `score`, where it may be partly right."""
    scratch_bytes: int
    """Size of the folder that each run of a workflow on an item may write to; 0 for none."""
    rule: str
    """The grading rule in one line; part of what decides an outcome."""
    packages: tuple[str, ...]
    """Distributions that programs of its grader import in the sandbox."""

    def items(self, split: Split) -> Sequence[Item]:
        """Items of a split, in a fixed order.

        Raises:
            SealedSplitError: The test split was asked for before it was opened.
        """

    async def grade(self, item: Item, answer: Any, sandbox: Sandbox) -> Grade:
        """Scores an answer by the benchmark's rule; code answers run in `sandbox`."""

    def seed_workflows(self) -> Sequence[Workflow]:
        """The workflows a search starts from; the first is the first current one."""


# --- executor ---------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Message:
    """One chat message."""

    role: str
    """`system`, `user` or `assistant`."""
    content: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One call to a model behind an API.

    Example:
        >>> ChatRequest(model="m", messages=(Message(role="user", content="hi"),)).n
        1
    """

    model: str
    messages: tuple[Message, ...]
    temperature: float = 1.0
    max_tokens: int | None = None
    """Most completion tokens per choice."""
    n: int = 1
    """Choices asked for."""
    json_mode: bool = False
    """Ask for `response_format={"type": "json_object"}`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CallContext:
    """Who calls, and which of several equal calls this is.

    `(request, sample_index, repetition)` is the key of the cache.
    """

    purpose: Purpose
    item_id: str = ""
    workflow_digest: str = ""
    """Of the workflow that calls."""
    sample_index: int = 0
    """Number of equal requests made earlier within the same item."""
    repetition: int = 0
    """Number of the repeated evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one call, all choices together."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatReply:
    """The choices of one call with what they cost."""

    texts: tuple[str, ...]
    finish_reasons: tuple[str, ...]
    usage: Usage
    usd: float = 0.0
    """By list price; a reply from the cache carries what it cost when it was bought."""
    from_cache: bool = False


class Executor(Protocol):
    """A metered, cached, budgeted model; safe to call from many tasks of one event loop."""

    model: str
    simulated: bool

    async def complete(self, request: ChatRequest, context: CallContext) -> ChatReply:
        """Returns the reply, from the cache where it was bought before.

        Raises:
            BudgetExceededError: A cap leaves no room; nothing was sent.
            CallRefusedError: The request itself is at fault; its author sees the message.
            ExecutorError: The model stayed unreachable after all retries.
        """


# --- sandbox ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one guarded child."""

    wall_seconds: float = 60.0
    """Wall clock; stopped while a request of the child's is outstanding."""
    cpu_seconds: float = 30.0
    memory_bytes: int = 1 << 30
    output_bytes: int = 1 << 20
    """Longest result, and longest captured standard output."""
    scratch_bytes: int = 0
    """Size of a folder of the run's own, its working directory, that it may write to; 0: it can write no file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LLMCall:
    """A validated LLM request of a workflow, as it reaches the parent."""

    messages: tuple[Message, ...]
    temperature: float
    n: int
    json_mode: bool
    max_tokens: int | None = None

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of all its fields, in hex; what is kept of a call where hundreds wait."""
        fields = [[m.role, m.content] for m in self.messages], self.temperature, self.n, self.json_mode, self.max_tokens
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()

    def request(self, model: str, max_tokens: int | None) -> ChatRequest:
        """What a model is asked for it, with at most `max_tokens` completion tokens a choice where that is given.

        Example:
            >>> call = LLMCall(messages=(), temperature=0.0, n=1, json_mode=False, max_tokens=256)
            >>> call.request("m", None).max_tokens, call.request("m", 64).max_tokens
            (256, 64)
        """
        caps = [cap for cap in (self.max_tokens, max_tokens) if cap is not None]
        return ChatRequest(
            model=model,
            messages=self.messages,
            temperature=self.temperature,
            max_tokens=min(caps, default=None),
            n=self.n,
            json_mode=self.json_mode,
        )


AskLLM = Callable[[LLMCall], Awaitable[Sequence[str]]]
"""Answers a workflow's LLM call; may raise CallRefusedError (which the workflow sees) or an error of ours."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkflowRun:
    """What came back of one workflow on one item."""

    status: RunStatus
    answer: Any = None
    """`answer` of the returned dict: str, int, float, bool, or None; set iff `ok`."""
    error: str = ""
    """One line: the exception's type and message, or the limit that was hit."""
    traceback: str = ""
    """Frames of the workflow's own code, for a repair."""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramRun:
    """What came back of a program run for `execute_code`, public tests or grading."""

    status: RunStatus
    value: str = ""
    """`str()` of what `solution()` returned, else of the last expression, else standard output."""
    error: str = ""
    seconds: float = 0.0


class Sandbox(Protocol):
    """Runs hostile code; see `sandbox/base.py` for what is covered."""

    name: str
    """`bwrap`, `guard` or `process`."""

    async def run_workflow(self, workflow: Workflow, given: SolverInput, ask: AskLLM, limits: Limits) -> WorkflowRun:
        """Runs `solver` in a fresh child.

        Raises:
            SandboxError: The sandbox itself could not run it.
        """

    async def run_program(self, code: str, limits: Limits) -> ProgramRun:
        """Runs a Python program in a fresh child without LLM access.

        Raises:
            SandboxError: The sandbox itself could not run it.
        """


# --- evaluation -------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemOutcome:
    """One workflow on one item, graded."""

    item_id: str
    status: ItemStatus
    score: float = 0.0
    answer: str | None = None
    """The workflow's answer as text, bounded in length."""
    error: str = ""
    symptom: str = ""
    """Of a wrong answer, as its task's grader sees it; of a broken one, its exception's type."""
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One workflow on one split.

    Example:
        >>> Evaluation(task="t", split=Split.VALIDATION, workflow_digest="ab", outcomes=()).n
        0
    """

    task: str
    split: Split
    workflow_digest: str
    outcomes: tuple[ItemOutcome, ...]
    """In the order of the split's items."""
    repetition: int = 0

    @property
    def n(self) -> int:
        """Items that were evaluated."""
        return sum(o.status is not ItemStatus.NOT_EVALUATED for o in self.outcomes)

    @property
    def num_right(self) -> int:
        """Items graded 1.0."""
        return sum(o.status is ItemStatus.RIGHT for o in self.outcomes)

    @property
    def accuracy(self) -> float:
        """Share of evaluated items graded 1.0; 0.0 where none was."""
        return self.num_right / self.n if self.n else 0.0

    @property
    def score(self) -> float:
        """Mean of the benchmark's own metric over evaluated items."""
        return sum(o.score for o in self.outcomes) / self.n if self.n else 0.0

    @property
    def usd_per_item(self) -> float:
        """Mean USD an evaluated item."""
        return sum(o.usd for o in self.outcomes if o.status is not ItemStatus.NOT_EVALUATED) / self.n if self.n else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One validation item as the meta-agent is shown it."""

    question: str
    answer: str
    target: str
    status: ItemStatus
    error: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Feedback:
    """What a state keeps of a validation evaluation; all that can reach a prompt."""

    score: float
    """Mean of the task's metric, which a search optimises: the share that is right, or mean F1 and the like."""
    accuracy: float
    """Share of items at 1.0; equal to `score` where the metric is one of `BINARY_METRICS`."""
    n: int
    """Items that were evaluated."""
    usd_per_item: float = 0.0
    symptoms: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Failures by what the parent can see of them, e.g. `{"no number": 3}`."""
    cases: tuple[Case, ...] = ()
    """A bounded, seeded sample, failures first."""
    metric: str = "accuracy"
    """As `Task.metric`."""


# --- the MDP ----------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A workflow with its validation feedback."""

    workflow: Workflow
    feedback: Feedback


@dataclasses.dataclass(frozen=True, kw_only=True)
class State:
    """What the meta-agent acts from."""

    task: str
    """Name."""
    description: str
    seeds: tuple[Evaluated, ...]
    current: Evaluated
    best_score: float
    """Best validation score of all history."""
    turn: int = 0
    score_before: float | None = None
    """That of the workflow which was current before the last turn; None on the first."""


class TurnKey(NamedTuple):
    """Names one turn of a run, or with `candidate` one of its workflows; unique within the run.

    Example:
        >>> TurnKey(0, 3, 1).of_candidate(2).name
        'r0-t3-turn1-c2'
        >>> TurnKey.parse("r0-t3-turn1") == TurnKey(0, 3, 1)
        True
    """

    round: int
    """0 before training, r in round r, num_rounds + 1 after."""
    trajectory: int
    """Planned number within the round."""
    turn: int
    candidate: int | None = None
    """In [0, m); None names the turn itself."""

    @property
    def trajectory_name(self) -> str:
        """E.g. `r0-t3`."""
        return f"r{self.round}-t{self.trajectory}"

    @property
    def name(self) -> str:
        """E.g. `r0-t3-turn1`, of a candidate `r0-t3-turn1-c2`."""
        candidate = "" if self.candidate is None else f"-c{self.candidate}"
        return f"{self.trajectory_name}-turn{self.turn}{candidate}"

    def of_candidate(self, candidate: int) -> TurnKey:
        """The key of one candidate of this turn."""
        return self._replace(candidate=candidate)

    @classmethod
    def parse(cls, name: str) -> TurnKey | None:
        """Reads `name` back; None where it is the name of no turn and no candidate."""
        match = _TURN_NAME.fullmatch(name)
        if match is None:
            return None
        round_, trajectory, turn, candidate = match.groups()
        return cls(int(round_), int(trajectory), int(turn), None if candidate is None else int(candidate))


class DrawKey(NamedTuple):
    """Names one random draw; equal keys give equal samples at any load."""

    seed: int
    round: int
    trajectory: int
    turn: int
    candidate: int
    attempt: int

    @property
    def candidate_key(self) -> TurnKey:
        """What the draw is for."""
        return TurnKey(self.round, self.trajectory, self.turn, self.candidate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How actions are sampled."""

    temperature: float = 0.5
    max_new_tokens: int = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """A dialogue as a policy holds it."""

    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...] = ()
    """Token ids of the messages and the opening of the reply; empty for a model behind an API."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One sampled action."""

    ids: tuple[int, ...]
    """As sampled, the end-of-turn token included where there is one; empty behind an API."""
    logprobs: tuple[float, ...]
    """Natural log, at temperature 1; same length as `ids`, or empty where unknown."""
    text: str
    """Decoded, without the end-of-turn token."""
    stop: StopReason


class Policy(Protocol):
    """A meta-agent that can be sampled from."""

    name: str

    def open(self, messages: Sequence[Message]) -> Context:
        """Renders messages and the opening of a reply.

        Raises:
            InputError: The prompt with its new tokens does not fit the model.
        """

    def extend(self, context: Context, action: Sample, messages: Sequence[Message]) -> Context:
        """The context after `action` and further messages; its ids begin with `context.prompt_ids + action.ids`."""

    def encode_action(self, text: str) -> Sample:
        """Tokenises a repaired action once; it has no log-probabilities."""

    async def sample(self, context: Context, keys: Sequence[DrawKey], options: SamplingOptions) -> Sequence[Sample]:
        """One sample a key, all from one context.

        Raises:
            InputError: The prompt with `max_new_tokens` does not fit the model.
            ExecutorError: A model behind an API stayed unreachable.
            BudgetExceededError: A cap leaves no room.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One action with all that became of it."""

    index: int
    """In [0, m)."""
    status: CandidateStatus
    text: str
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    code: str = ""
    """Source of its workflow; empty where none was found."""
    reason: str = ""
    """Why it was skipped or failed."""
    score: float | None = None
    """Mean of the task's metric on the validation items; None unless it was evaluated."""
    reward: float | None = None
    usd: float = 0.0
    """Executor's cost of its self-checks and evaluation."""
    repairs: int = 0
    feedback: Feedback | None = None

    @property
    def accuracy(self) -> float | None:
        """Share of validation items at 1.0; None unless it was evaluated."""
        return None if self.feedback is None else self.feedback.accuracy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One step of a search: m candidates sampled from one context. The record of the store."""

    round: int
    """0 before training, r in round r, num_rounds + 1 after."""
    trajectory: int
    """Planned number within the round."""
    turn: int
    task: str
    messages: tuple[Message, ...]
    """The dialogue the actions were sampled from."""
    prompt_ids: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    chosen: int | None
    """Index of the best candidate, which advances the state of W4S; None where all were skipped."""
    parents: tuple[str, ...] | None = None
    """Names of the workflows that the candidates were made from: none, one or several. None in records that did not
    say it yet, all of them W4S's: then it is the current workflow."""

    @property
    def key(self) -> TurnKey:
        """Its place in the run."""
        return TurnKey(self.round, self.trajectory, self.turn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The finished turns of one trajectory, in order."""

    round: int
    index: int
    task: str
    turns: tuple[Turn, ...]
