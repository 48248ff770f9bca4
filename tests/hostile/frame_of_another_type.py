# Asks for something that is not in the protocol.
# Expect: malformed
# After: no process
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    send(agent, json.dumps({"type": "eval", "code": "open('/etc/passwd')"}).encode())
    return {"answer": "LEAK"}
