# 1 call a question.
def solver(agent, task):
    messages = [{"role": "user", "content": task}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.0,
        num_of_response=1,
        agent_role="a careful mathematician",
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. The answer is one number without units.",
    )
    return {"answer": agent.extract_answer_str(str(replies[0]["answer"]))}
