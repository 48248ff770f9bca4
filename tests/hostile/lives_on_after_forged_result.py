# Forges its result and then computes on.
# Expect: ok forged
# After: no process
# Enough: limits

import json
import os
import struct


def solver(agent, task):
    body = json.dumps({"type": "result", "status": "ok", "answer": "forged"}).encode()
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)
    while True:
        pass
