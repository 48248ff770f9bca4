# Answers with NaN.
# Expect: malformed
# After: no process

def solver(agent, task):
    return {"answer": float("nan")}
