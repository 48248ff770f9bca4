# Compiles source nested beyond the parser's stack.
# Expect: exception | limit
# After: no process
# Enough: limits

def solver(agent, task):
    return {"answer": eval("(" * 100_000 + ")" * 100_000)}
