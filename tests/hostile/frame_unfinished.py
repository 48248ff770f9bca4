# Announces a frame and never ends it.
# Expect: timeout
# After: no process
# Wall: 0.5
# Enough: limits

import json
import os
import struct


def send(agent, body):
    os.write(agent._channel._fd, struct.pack("!I", len(body)) + body)


def solver(agent, task):
    os.write(agent._channel._fd, struct.pack("!I", 1000) + b"{")
    while os.read(agent._channel._fd, 1):
        pass
