# Sends bytes that are no JSON.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, b"\x80\x04\x95 not json")
    return {"answer": "LEAK"}
