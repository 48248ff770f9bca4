# Sends a number of a hundred thousand digits, slow to read as an int.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, b'{"type": "result", "status": "ok", "answer": ' + b"9" * 100_000 + b"}")
    os._exit(0)
