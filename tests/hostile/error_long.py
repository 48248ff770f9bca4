# Raises with a message of a megabyte and a deep traceback.
# Expect: exception
# After: the error is short
# Enough: limits

def dive(depth):
    if not depth:
        raise ValueError("x\n" * 1_000_000)
    dive(depth - 1)


def solver(agent, task):
    dive(500)
