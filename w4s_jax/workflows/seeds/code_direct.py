def solver(agent, task):
    ask = task + "\nWrite the function."
    replies = agent.call_llm([{"role": "user", "content": ask}], temperature=0.0, num_of_response=1)
    answers = [agent.extract_code_block(r) for r in replies]
    return {"answer": answers[0]}
