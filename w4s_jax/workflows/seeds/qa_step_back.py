# 2 calls a question: what it rests on, then the answer.
def solver(agent, task):
    ask = task + "\n\nWhich facts, concepts or principles does this question rest on? Name them; do not answer it yet."
    messages = [{"role": "user", "content": ask}]
    principles = agent.call_llm(messages, temperature=0.0, num_of_response=1)[0]
    messages = [{"role": "user", "content": f"{task}\n\nWhat the question rests on:\n{principles}"}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.0,
        num_of_response=1,
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. Answer in the form that the question asks for, as short as possible.",
    )
    return {"answer": str(replies[0]["answer"])}
