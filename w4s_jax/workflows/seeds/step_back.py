# 2 calls a question: the principles, then the solution.
def solver(agent, task):
    ask = task + "\n\nWhich principles and formulas does this problem rest on? Name them; do not solve it yet."
    messages = [{"role": "user", "content": ask}]
    principles = agent.call_llm(messages, temperature=0.0, num_of_response=1)[0]
    messages = [{"role": "user", "content": f"{task}\n\nPrinciples that may help:\n{principles}"}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.0,
        num_of_response=1,
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. The answer is one number without units.",
    )
    return {"answer": agent.extract_answer_str(str(replies[0]["answer"]))}
