# Computes for ever.
# Expect: limit
# After: no process
# Enough: limits

def solver(agent, task):
    while True:
        pass
