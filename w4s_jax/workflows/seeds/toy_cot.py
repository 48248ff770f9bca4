def solver(agent, task):
    ask = task + "\nThink step by step. End with: Answer: <number>"
    replies = agent.call_llm([{"role": "user", "content": ask}], temperature=0.0, num_of_response=1)
    answers = [agent.extract_answer_str(r) for r in replies]
    return {"answer": answers[0]}
