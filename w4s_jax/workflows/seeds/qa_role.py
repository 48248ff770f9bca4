# 2 calls a question: the choice of a role, then the answer.
def solver(agent, task):
    roles = [
        "a scientist",
        "a mathematician",
        "a historian",
        "a lawyer",
        "a physician",
        "an engineer",
        "a close reader",
    ]
    ask = f"{task}\n\nWho should answer this question: {', '.join(roles)}? Name one of them; do not answer it."
    chosen = agent.call_llm([{"role": "user", "content": ask}], temperature=0.0, num_of_response=1)[0].lower()
    replies = agent.call_json_format_llm(
        [{"role": "user", "content": task}],
        temperature=0.0,
        num_of_response=1,
        agent_role=next((role for role in roles if role.split()[-1] in chosen), roles[-1]),
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. Answer in the form that the question asks for, as short as possible.",
    )
    return {"answer": str(replies[0]["answer"])}
