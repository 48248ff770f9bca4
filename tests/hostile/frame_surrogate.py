# Sends a lone surrogate, which no file can hold.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, b'{"type": "result", "status": "ok", "answer": "\\ud800"}')
    os._exit(0)
