# Sends LLM calls with wrong types and ranges; each is refused and told so.
# Expect: ok contained
# After: the executor saw none of them
# Asks: 0
# Enough: limits

import json


def solver(agent, task):
    good = {"type": "llm", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "n": 1,
            "json_mode": False, "max_tokens": None}  # fmt: skip
    bad = ({"n": 0}, {"n": 10**9}, {"n": True}, {"n": "1"}, {"temperature": -1}, {"temperature": "hot"},
           {"temperature": 1e308}, {"max_tokens": 0}, {"max_tokens": 1.5}, {"json_mode": 1}, {"messages": []},
           {"messages": "x"}, {"messages": [["user", "x"]]}, {"messages": [{"role": "root", "content": "x"}]},
           {"messages": [{"role": ["user"], "content": "x"}]}, {"messages": [{"role": "user", "content": {"a": 1}}]},
           {"messages": [{"role": "user", "content": "\ud800"}]}, {"messages": [{"role": "user"}]},
           {"messages": [{"role": "user", "content": "x"}] * 10_000})  # fmt: skip
    leaks = [str(b)[:80] for b in bad if "error" not in agent._channel.request({**good, **b})]
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
