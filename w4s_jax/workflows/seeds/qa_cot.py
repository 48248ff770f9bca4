# 1 call a question.
def solver(agent, task):
    messages = [{"role": "user", "content": task}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.0,
        num_of_response=1,
        agent_role="a careful reader",
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. Answer in the form that the question asks for, as short as possible.",
    )
    return {"answer": str(replies[0]["answer"])}
