# Sends JSON nested beyond any stack.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, b"[" * 1_000_000)
    return {"answer": "LEAK"}
