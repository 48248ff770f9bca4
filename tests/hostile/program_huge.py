# Hands execute_code a program longer than a frame, after programs that no parser likes.
# Expect: exception
# After: no process
# Enough: limits

def solver(agent, task):
    for code in ("\0", "\ufeff1", "-" * 500_000 + "1", "x" * 1_000_000, "# coding: latin-9\n\udc80", ""):
        try:
            agent.execute_code(code)
        except RuntimeError:
            pass
    return {"answer": agent.execute_code("#" + "\x7f" * 5_000_000)}
