def solver(agent, task):
    ask = task + "\nGive only the final number."
    replies = agent.call_llm([{"role": "user", "content": ask}], temperature=0.0, num_of_response=1)
    answers = [r for r in replies]
    return {"answer": answers[0]}
