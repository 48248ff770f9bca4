# Sends requests for ever without reading a reply.
# Expect: limit | timeout
# After: no process
# Wall: 0.5
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    body = json.dumps({
        "type": "llm", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "n": 1, "json_mode": False,
        "max_tokens": None,
    }).encode()  # fmt: skip
    while True:
        send(agent, body)
