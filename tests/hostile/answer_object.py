# Answers with an object that is equal to everything.
# Expect: malformed
# After: no process
# Enough: limits

class Anything:
    def __eq__(self, other):
        return True

    def __hash__(self):
        return 0

    def __str__(self):
        return "42"


def solver(agent, task):
    return {"answer": Anything()}
