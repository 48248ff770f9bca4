# Takes away the builtins that its own result is made with.
# Expect: limit
# After: no process
# Enough: limits

import builtins


def solver(agent, task):
    builtins.str = builtins.len = builtins.isinstance = builtins.type = builtins.memoryview = None
    raise ValueError
