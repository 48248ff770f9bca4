# Calls the executor for ever and swallows each refusal.
# Expect: limit
# After: no process
# Enough: limits

def solver(agent, task):
    while True:
        try:
            agent.call_llm("again")
        except Exception:
            pass
