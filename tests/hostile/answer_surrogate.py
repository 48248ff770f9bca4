# Answers with a lone surrogate.
# Expect: malformed
# After: no process

def solver(agent, task):
    return {"answer": "\ud800"}
