def solver(agent, task, entry_point):
    ask = task + "\nWrite the function."
    replies = agent.call_llm([{"role": "user", "content": ask}], temperature=0.0, num_of_response=1)
    answers = [agent.extract_code_block(r) for r in replies]
    test = agent.test_on_public_test(task, answers[0], entry_point, 2)
    return {"answer": test["solution"]}
