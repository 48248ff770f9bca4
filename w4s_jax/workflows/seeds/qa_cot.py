def solver(agent, task):
    messages = [{"role": "user", "content": task}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.0,
        num_of_response=1,
        agent_role="a careful reader",
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. The answer is as short as possible: a name, a number or a few words.",
    )
    return {"answer": str(replies[0]["answer"])}
