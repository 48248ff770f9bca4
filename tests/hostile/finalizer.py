# Leaves a finaliser and an exit handler that would send another result.
# Expect: ok first
# After: no process
# Enough: limits

import atexit
import json
import os
import struct


def solver(agent, task):
    def again():
        body = json.dumps({"type": "result", "status": "ok", "answer": "second"}).encode()
        os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)

    atexit.register(again)
    return {"answer": "first"}
