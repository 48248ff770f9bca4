# 2 calls a question: a draft, then a review.
def solver(agent, task, entry_point):
    instructions = (
        f"Write the whole function {entry_point}, with its imports and helpers. "
        "Put the code into one ```python block, without tests or examples of use."
    )
    messages = [{"role": "user", "content": task + "\n\n" + instructions}]
    draft = agent.call_llm(messages, temperature=0.0, num_of_response=1)[0]
    review = (
        "Review your function against each sentence and each example of the task: "
        "edge cases, empty inputs, types, order. Then write it again, corrected where it is wrong. " + instructions
    )
    messages += [{"role": "assistant", "content": draft or "(nothing)"}, {"role": "user", "content": review}]
    final = agent.call_llm(messages, temperature=0.0, num_of_response=1)[0]
    return {"answer": agent.extract_code_block(final, entry_point)}
