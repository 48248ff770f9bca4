# Answers with a pickle that would run a command where it is loaded.
# Expect: malformed
# After: no file
# Enough: limits

import os
import pickle


class Bomb:
    def __reduce__(self):
        return os.system, ("touch /tmp/w4s-bomb",)


def solver(agent, task):
    return {"answer": pickle.dumps(Bomb())}
