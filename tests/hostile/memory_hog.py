# Takes all the memory it can.
# Expect: limit
# After: no process
# Enough: limits

def solver(agent, task):
    held = []
    while True:
        held.append(bytearray(16 << 20))
