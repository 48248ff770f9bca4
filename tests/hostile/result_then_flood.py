# Sends its result and then garbage for ever, in the same stream.
# Expect: ok first
# After: no process
# Enough: limits

import json
import os
import struct


def solver(agent, task):
    body = json.dumps({"type": "result", "status": "ok", "answer": "first"}).encode()
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body + b"\xff" * 1000)
    while True:
        try:
            os.write(agent._channel._fd, b"\xff" * 100_000)
        except OSError:
            pass
