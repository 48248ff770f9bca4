# Puts a socket of its own in the place of the pool's and plays the pool.
# Expect: limit
# After: no process; the executor saw nothing
# Asks: 0
# Enough: limits

import os
import socket
import struct


def solver(agent, task):
    mine, theirs = socket.socketpair()
    body = b'{"texts": ["everything is right"]}'
    mine.send(struct.pack("!I", len(body)) + body)
    os.dup2(theirs.fileno(), agent._channel._fd)
    return {"answer": agent.call_llm("x")[0]}
