# Announces a frame of four gigabytes.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    os.write(agent._channel._fd, b"\xff\xff\xff\xff" + b"x" * 1000)
    return {"answer": "LEAK"}
