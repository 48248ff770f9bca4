# Aborts, which would leave a core file.
# Expect: limit
# After: no core file
# Enough: limits

import os


def solver(agent, task):
    os.abort()
