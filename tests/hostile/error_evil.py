# Raises an exception whose text raises, with a name of a megabyte.
# Expect: exception
# After: the error is short
# Enough: limits

class Evil(Exception):
    def __str__(self):
        raise self


Evil.__name__ = "E" * 1_000_000


def solver(agent, task):
    raise Evil
