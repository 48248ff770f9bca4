# Sends a number that is JSON and no finite float.
# Expect: malformed
# After: no process
# Enough: limits

import os
import struct


def solver(agent, task):
    body = b'{"type": "result", "status": "ok", "answer": 1e400}'
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)
    os._exit(0)
