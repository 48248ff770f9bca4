def solver(agent, task):
    ask = task + "\nThink step by step. End with: Answer: <number>"
    replies = agent.call_llm([{"role": "user", "content": ask}], temperature=0.8, num_of_response=5)
    answers = [agent.extract_answer_str(r) for r in replies]
    return {"answer": max(answers, key=answers.count)}
