# Asks for a program with a timeout beyond float64.
# Expect: ok contained
# After: no process; the pool goes on
# Enough: limits

def solver(agent, task):
    for timeout in (10**400, -(10**400)):
        try:
            agent.execute_code("1", timeout=timeout)
        except RuntimeError:
            pass
    return {"answer": "contained"}
