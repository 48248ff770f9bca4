# Answers with NaN.
# Expect: malformed
# After: no process
# Enough: limits

def solver(agent, task):
    return {"answer": float("nan")}
