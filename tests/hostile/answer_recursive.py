# Answers with a list that holds itself.
# Expect: malformed
# After: no process
# Enough: limits

def solver(agent, task):
    answer = []
    answer.append(answer)
    return {"answer": answer}
