# Sends two results; the first counts, the second reaches nobody.
# Expect: ok first
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    for answer in ("first", "second"):
        send(agent, json.dumps({"type": "result", "status": "ok", "answer": answer}).encode())
    os._exit(0)
