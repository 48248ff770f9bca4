# Takes all memory and swallows the error, again and again.
# Expect: limit
# After: no process
# Enough: limits

def solver(agent, task):
    held = []
    while True:
        try:
            held.append(bytearray(16 << 20))
        except MemoryError:
            pass
