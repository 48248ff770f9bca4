# Answers with more text than the limit.
# Expect: malformed
# After: no process
# Enough: limits

def solver(agent, task):
    return {"answer": "x" * 10_000_000}
