# 1 call a question.
def solver(agent, task):
    instructions = (
        "Give only the final answer, without any explanation, "
        "in the form that the question asks for and as short as possible."
    )
    messages = [{"role": "user", "content": task + "\n\n" + instructions}]
    replies = agent.call_llm(messages, temperature=0.0, num_of_response=1)
    return {"answer": replies[0].strip()}
