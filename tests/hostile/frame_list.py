# Sends a list, and statuses that do not exist.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, json.dumps({"type": "result", "status": ["ok"], "answer": {"__class__": "Item"}}).encode())
    os._exit(0)
