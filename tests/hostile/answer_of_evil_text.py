# Answers with a text whose methods lie; only its characters count.
# Expect: ok plain
# After: no process
# Enough: limits

class Text(str):
    def __str__(self):
        return "LEAK"

    def __eq__(self, other):
        return True

    __hash__ = str.__hash__
    __repr__ = encode = __len__ = None


def solver(agent, task):
    return {"answer": Text("plain")}
