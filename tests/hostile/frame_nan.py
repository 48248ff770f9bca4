# Sends NaN and Infinity, which are not JSON.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, b'{"type": "result", "status": "ok", "answer": NaN}')
    os._exit(0)
