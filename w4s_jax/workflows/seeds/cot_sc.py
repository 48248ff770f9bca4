def solver(agent, task):
    messages = [{"role": "user", "content": task}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.8,
        num_of_response=5,
        agent_role="a careful mathematician",
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. The answer is one number without units.",
    )
    answers = [agent.extract_answer_str(str(reply["answer"])) for reply in replies]
    return {"answer": max(answers, key=answers.count)}
