# 1 call a question.
def solver(agent, task, entry_point):
    instructions = (
        f"Write the whole function {entry_point}, with its imports and helpers. "
        "Put the code into one ```python block, without tests or examples of use."
    )
    messages = [{"role": "user", "content": task + "\n\n" + instructions}]
    replies = agent.call_llm(messages, temperature=0.0, num_of_response=1)
    return {"answer": agent.extract_code_block(replies[0], entry_point)}
