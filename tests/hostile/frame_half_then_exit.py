# Dies in the middle of its result.
# Expect: limit
# After: no process
# Enough: limits

import os
import struct


def solver(agent, task):
    os.write(agent._channel._fd, struct.pack("!I", 1000) + b'{"type": "result", "status": "ok", "answer": "half')
    os._exit(0)
