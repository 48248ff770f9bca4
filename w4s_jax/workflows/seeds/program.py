def solver(agent, task):
    instructions = (
        "Write Python code that solves the problem. Define solution() without arguments, "
        "which returns the answer as one number. Put the code into one ```python block."
    )
    messages = [{"role": "user", "content": task + "\n\n" + instructions}]
    replies = agent.call_llm(messages, temperature=0.3, num_of_response=1)
    answer = agent.execute_code(agent.extract_code_block(replies[0]), timeout=10)
    return {"answer": str(answer)}
