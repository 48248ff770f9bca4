# Answers with a lone surrogate.
# Expect: malformed
# After: no process
# Enough: limits

def solver(agent, task):
    return {"answer": "\ud800"}
