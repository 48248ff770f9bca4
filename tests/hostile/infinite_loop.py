# Computes for ever.
# Expect: limit
# After: no process

def solver(agent, task):
    while True:
        pass
