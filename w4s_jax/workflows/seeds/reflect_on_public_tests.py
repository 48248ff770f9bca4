# 1 to 4 calls a question: a draft, then a correction for each failure of a public test, 3 at most.
def solver(agent, task, entry_point):
    instructions = (
        f"Write the whole function {entry_point}, with its imports and helpers. "
        "Put the code into one ```python block, without tests or examples of use."
    )
    messages = [{"role": "user", "content": task + "\n\n" + instructions}]
    for _ in range(4):
        reply = agent.call_llm(messages, temperature=0.0, num_of_response=1)[0]
        code = agent.extract_code_block(reply, entry_point)
        tested = agent.test_on_public_test(task, code, entry_point, test_loop=0)
        if tested["result"]:
            break
        reflect = (
            f"Your function fails a public test.\n{tested['feedback']}\n\n"
            "Reflect on it first: what did the task ask for, what does the code do, why do they differ? " + instructions
        )
        messages += [{"role": "assistant", "content": reply or "(nothing)"}, {"role": "user", "content": reflect}]
    return {"answer": code}
