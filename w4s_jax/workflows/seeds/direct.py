# 1 call a question.
def solver(agent, task):
    ask = task + "\n\nGive only the final answer: one number without units or words."
    replies = agent.call_llm([{"role": "user", "content": ask}], temperature=0.0, num_of_response=1)
    return {"answer": agent.extract_answer_str(replies[0])}
