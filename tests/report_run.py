"""Run directories made by hand, with the store's and the ledger's own writers."""

import asyncio
import json
import random

from w4s_jax.executor.ledger import Call, CallStore
from w4s_jax.rollout.store import TrajectoryStore
from w4s_jax.types import Candidate, CandidateStatus, Feedback, Message, Turn

SEED = (
    'def solver(agent, task):\n    replies = agent.call_llm([{"role": "user", "content": task}])\n'
    '    return {"answer": replies[0]}'
)
REASONS = (
    "SyntaxError: '(' was never closed (<workflow>, line 2)",
    "KeyError: 'answer'",
    "the reply holds no Python block; write one block fenced by ```python and ```",
)
FLAGS = {
    "executor": "simulated", "executor_model": "simulated", "meta_agent": "tiny",
    "num_candidates": "3", "num_rounds": "2", "num_turns": "2", "reward": "paper", "seed": "0",
    "task": "toy_small,toy_units", "eval_task": "toy_dates,toy_ages", "tau": "0.4", "trajectories": "",
}  # fmt: skip


def ok(index, score, *, reward=0.0, code=SEED, text="because", usd=0.001, repairs=0, n=20, symptoms=None):
    """A candidate that ran."""
    feedback = Feedback(score=score, accuracy=score, n=n, usd_per_item=usd / n, symptoms=symptoms or {})
    return Candidate(
        index=index, status=CandidateStatus.OK, text=f"{text}\n```python\n{code}\n```", code=code,
        score=score, reward=reward, usd=usd, repairs=repairs, feedback=feedback,
    )  # fmt: skip


def skipped(
    index, reason="SyntaxError: '(' was never closed", *, text="no block", code="", status=CandidateStatus.SKIPPED
):
    """A candidate that did not run."""
    return Candidate(index=index, status=status, text=text, code=code, reason=reason, repairs=3)


def turn(round_, trajectory, number, candidates, chosen, *, task="toy_dates", seed=SEED):
    """A turn whose dialogue opens with the seed workflow."""
    return Turn(
        round=round_, trajectory=trajectory, turn=number, task=task, prompt_ids=(1, 2), chosen=chosen,
        messages=(Message(role="user", content=f"Do well.\n```python\n{seed}\n```"),), candidates=tuple(candidates),
    )  # fmt: skip


def estimate(accuracy, n, low, high, **more):
    """As result files hold it."""
    return {"accuracy": accuracy, "n": n, "ci95": [low, high], **more}


def finalist(by_task, pooled):
    """One label of a summary; `by_task` is {task: (accuracy, n, low, high, validation accuracy)}."""
    return estimate(*pooled, ci_method="wilson, items of all tasks pooled") | {
        "by_task": {
            task: estimate(
                a, n, lo, hi, score=a, validation_accuracy=v, validation_n=20, usd_per_item=1e-5, workflow=f"w_{task}"
            )
            for task, (a, n, lo, hi, v) in by_task.items()
        }
    }


def make_summary():
    """A finished run's summary."""
    seeds = {"toy_dates": (0.24, 50, 0.143, 0.374, 0.3), "toy_ages": (0.42, 50, 0.294, 0.558, 0.45)}
    before = {"toy_dates": (0.31, 50, 0.2, 0.44, 0.4), "toy_ages": (0.47, 50, 0.34, 0.61, 0.5)}
    after = {"toy_dates": (0.62, 50, 0.48, 0.74, 0.7), "toy_ages": (0.77, 50, 0.64, 0.87, 0.85)}
    return {
        "schema_version": 1,
        "seeds": finalist(seeds, (0.33, 100, 0.246, 0.427)),
        "before": finalist(before, (0.39, 100, 0.3, 0.488)),
        "after": finalist(after, (0.695, 100, 0.599, 0.777)),
        "gains": {"before_to_after": {"difference": 0.305, "n": 100, "ci95": [0.211, 0.399]}},
        "mean_reward": [0.125, 0.5],
        "rounds": [make_round(0.125, 0.625), make_round(0.5, 0.875)],
        "usd": 0.75, "usd_by": {"meta_agent": 0.0, "optimisation": 0.5, "test": 0.25},
        "calls": 1234, "cache_hits": 77, "faults": {"timeout": 3},
        "prompt_tokens": 100_001, "completion_tokens": 50_002, "seconds": 4000.0, "simulated": True,
    }  # fmt: skip


def make_round(mean_reward, running_share):
    """Statistics of a round."""
    return {
        "trajectories": 2, "actions": 12, "mean_reward": mean_reward, "running_share": running_share,
        "reward_per_running": mean_reward / running_share, "mean_accuracy": 0.4, "repairs": 5, "failed_by_us": 0,
    }  # fmt: skip


def write_run(folder, *, turns=(), summary=None, flags=None, updates=(), rounds=(), calls=()):
    """Writes a run directory; what is not given is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    given = FLAGS if flags is None else flags
    (folder / "run.flags").write_text("".join(f"--{name}={value}\n" for name, value in given.items()))
    versions = {
        "schema_version": 1, "python": "3.11.7", "platform": "Linux", "packages": {"jax": "0.10.2"}, "commit": "abc123",
        "meta_agent": {"name": "tiny", "weights_sha256": "feed"}, "executor": "simulated", "sandbox": "bwrap",
        "split_sha256": {"toy_dates": {"train": "t1", "validation": "v1", "test": "s1"}},
    }  # fmt: skip
    (folder / "versions.json").write_text(json.dumps(versions))
    records = [{"kind": "round", "round": n, "step": n, **r} for n, r in enumerate(rounds, 1)]
    records += [{"kind": "update", "round": 1, "step": n, "loss": loss} for n, loss in enumerate(updates)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with TrajectoryStore(folder / "trajectories.jsonl") as store:
        for one in turns:
            store.append(one)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    if calls:
        asyncio.run(_book(folder / "calls.sqlite", calls))
    return folder


async def _book(path, calls):
    store = CallStore(path)
    for call in calls:
        await store.book(call)
    await store.close()


def call(purpose="optimisation", outcome="reply", **sums):
    """One booked attempt."""
    return Call(
        time=0.0,
        purpose=purpose,
        model="simulated",
        item="i",
        workflow="w",
        key="k",
        outcome=outcome,
        simulated=1,
        **sums,
    )


def lively_turns(rng, tasks=("toy_dates", "toy_ages"), num_turns=6, candidates=5, rounds=4, per_round=6):
    """Turns of a run that learns: searches before and after, rounds between."""
    styles = ("Give only the number.", "Think step by step.", "List the facts first.", "Convert all units first.")
    plan = [(0, task, num_turns) for task in tasks] + [(rounds + 1, task, num_turns) for task in tasks]
    plan += [(r, rng.choice(tasks), 2) for r in range(1, rounds + 1) for _ in range(per_round)]
    numbers = {}
    for round_, task, length in sorted(plan, key=lambda p: p[0]):
        trajectory = numbers[round_] = numbers.get(round_, -1) + 1
        level = 0.3
        for number in range(length):
            made = []
            for index in range(candidates):
                if rng.random() > 0.4 + 0.12 * round_:
                    reason = rng.choice(REASONS)
                    made.append(skipped(index, reason, code="" if "block" in reason else SEED[:60]))
                    continue
                score = min(1.0, max(0.0, round(20 * (level + rng.gauss(0.02 + 0.02 * round_, 0.1))) / 20))
                lines = SEED.split("\n")
                lines[1:1] = [f'    task = task + "\\n{rng.choice(styles)}"']
                if rng.random() < 0.5:
                    lines[-1] = '    return {"answer": max(replies, key=replies.count)}'
                wrong = round(20 * (1 - score))
                kinds = {"far": wrong // 2, "factor": wrong // 3, "no number": wrong - wrong // 2 - wrong // 3}
                made.append(ok(
                    index, score, reward=float(score > level), code="\n".join(lines),
                    text="Most failures are far off. A plan before the number should help.", usd=rng.random() / 500,
                    repairs=rng.choice((0, 0, 0, 1)), symptoms={k: v for k, v in kinds.items() if v},
                ))  # fmt: skip
            best = max((c for c in made if c.score is not None), key=lambda c: c.score, default=None)
            level = max(level, best.score) if best else level
            yield turn(round_, trajectory, number, made, best.index if best else None, task=task)


def write_lively_run(folder, rounds=4, **how):
    """A whole run as a reader would see one."""
    rng = random.Random(0)
    turns = list(lively_turns(rng, rounds=rounds, **how))
    totals = {"usd": 0.002, "prompt_tokens": 90, "completion_tokens": 40}
    calls = [call(purpose, **totals) for purpose in ("optimisation", "test") for _ in range(9)]
    return write_run(
        folder, turns=turns, summary=make_summary(), flags=FLAGS | {"num_rounds": str(rounds)},
        calls=[*calls, call(outcome="timeout", usd=0.004, prompt_tokens=90)],
        rounds=[_round_of([t for t in turns if t.round == r]) for r in range(1, rounds + 1)],
        updates=[2.2 / (1 + n / 9) + rng.gauss(0, 0.05) for n in range(48)],
    )  # fmt: skip


def _round_of(turns):
    rewards = [c.reward or 0.0 for t in turns for c in t.candidates]
    ran = [c for t in turns for c in t.candidates if c.score is not None]
    return make_round(sum(rewards) / len(rewards), len(ran) / len(rewards))
