# 1 call a question; the program that it gives is run.
def solver(agent, task):
    instructions = (
        "Write Python code that solves the problem. Define solution() without arguments, "
        "which returns the answer as one number. Put the code into one ```python block."
    )
    messages = [{"role": "user", "content": task + "\n\n" + instructions}]
    replies = agent.call_llm(messages, temperature=0.3, num_of_response=1)
    try:
        answer = agent.execute_code(agent.extract_code_block(replies[0]), timeout=10)
    except RuntimeError:  # no code, or code that fails
        answer = agent.extract_answer_str(replies[0])
    return {"answer": str(answer)}
