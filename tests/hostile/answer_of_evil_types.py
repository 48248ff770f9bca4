# Answers with a dict and a number whose methods lie; only the plain number counts.
# Expect: ok 5
# After: no process
# Enough: limits

class Number(int):
    def __int__(self):
        return self

    def __str__(self):
        return "LEAK"

    def __eq__(self, other):
        return True

    __hash__ = int.__hash__
    __repr__ = __str__


class Returned(dict):
    def __contains__(self, key):
        return True

    def __getitem__(self, key):
        return Number(5)


def solver(agent, task):
    return Returned()
