# Runs programs for ever and swallows each refusal.
# Expect: limit
# After: no process
# Enough: limits

def solver(agent, task):
    while True:
        try:
            agent.execute_code("1")
        except Exception:
            pass
