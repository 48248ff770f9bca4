# 2 calls a question: the choice of a role, then the answer.
def solver(agent, task):
    def spelt(value):
        """A JSON value as an answer: yes for true, nothing for null, 12 for 12.0, commas between a list's parts."""
        if value is None or isinstance(value, bool):
            return {None: "", True: "yes", False: "no"}[value]
        if isinstance(value, list):
            return ", ".join(map(spelt, value))
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

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
    return {"answer": spelt(replies[0]["answer"])}
