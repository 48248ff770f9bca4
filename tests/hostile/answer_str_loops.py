# Answers with a number whose text never comes.
# Expect: limit
# After: no process
# Enough: limits

class Number:
    def __float__(self):
        return 1.0

    def __str__(self):
        while True:
            pass


def solver(agent, task):
    return {"answer": Number()}
