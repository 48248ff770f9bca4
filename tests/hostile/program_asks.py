# Has its program send an LLM call, which programs do not have.
# Expect: exception
# After: the executor saw none of them
# Asks: 0
# Enough: limits

PROGRAM = """
import gc, json, os, struct
body = json.dumps({"type": "llm", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "n": 1,
                   "json_mode": False, "max_tokens": None}).encode()
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack("!I", len(body)) + body)
        os.read(fd, 1)
    except OSError:
        pass
"""


def solver(agent, task):
    return {"answer": agent.execute_code(PROGRAM)}
