# 1 to 4 calls a question: a draft, then a repair for each failure of a public test, 3 at most.
def solver(agent, task, entry_point):
    instructions = (
        f"Write the whole function {entry_point}, with its imports and helpers. "
        "Put the code into one ```python block, without tests or examples of use."
    )
    messages = [{"role": "user", "content": task + "\n\n" + instructions}]
    replies = agent.call_llm(messages, temperature=0.0, num_of_response=1)
    code = agent.extract_code_block(replies[0], entry_point)
    tested = agent.test_on_public_test(task, code, entry_point, test_loop=3)
    return {"answer": tested["solution"]}
