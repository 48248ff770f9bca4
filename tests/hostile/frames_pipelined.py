# Sends malformed requests and its result in one piece and dies before the first reply.
# Expect: ok last
# After: the executor saw none of them
# Asks: 0
# Enough: limits

import json
import os
import struct


def solver(agent, task):
    frames = b""
    result = {"type": "result", "status": "ok", "answer": "last"}
    for message in [{"type": "llm"}, {"type": "run_code"}] * 20 + [result]:
        body = json.dumps(message).encode()
        frames += struct.pack("!I", len(body)) + body
    os.write(agent._channel._fd, frames)
    os._exit(0)
