# Sends a result frame itself, which is a claim like any returned answer.
# Expect: ok forged
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, json.dumps({"type": "result", "status": "ok", "answer": "forged"}).encode())
    os._exit(0)
