# 1 call a question.
def solver(agent, task):
    def spelt(value):
        """A JSON value as an answer: yes for true, nothing for null, 12 for 12.0, commas between a list's parts."""
        if value is None or isinstance(value, bool):
            return {None: "", True: "yes", False: "no"}[value]
        if isinstance(value, list):
            return ", ".join(map(spelt, value))
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    messages = [{"role": "user", "content": task}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.0,
        num_of_response=1,
        agent_role="a careful reader",
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. Answer in the form that the question asks for, as short as possible.",
    )
    return {"answer": spelt(replies[0]["answer"])}
