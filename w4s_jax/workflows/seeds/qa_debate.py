# 7 calls a question: 3 roles in 2 rounds, and a judge.
def solver(agent, task):
    def spelt(value):
        """A JSON value as an answer: yes for true, nothing for null, 12 for 12.0, commas between a list's parts."""
        if value is None or isinstance(value, bool):
            return {None: "", True: "yes", False: "no"}[value]
        if isinstance(value, list):
            return ", ".join(map(spelt, value))
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    def ask(role, request, temperature):
        reply = agent.call_json_format_llm(
            [{"role": "user", "content": task + request}],
            temperature=temperature,
            num_of_response=1,
            agent_role=role,
            return_dict_keys=["reasoning", "answer"],
            instructions="Think step by step. Answer in the form that the question asks for, as short as possible.",
        )[0]
        return str(reply["reasoning"]), spelt(reply["answer"])

    roles = ["a scholar who recalls the facts", "a reader who trusts the text alone", "a sceptic who rules answers out"]
    said = ""
    for _ in range(2):
        request = f"\n\nThe agents said:\n{said}\nReview what they said, then give your own answer." if said else ""
        solutions = [ask(role, request, 0.8) for role in roles]
        said = "\n".join(f"Agent {i}: {reasoning} It is {answer}" for i, (reasoning, answer) in enumerate(solutions, 1))
    request = f"\n\nThe agents said:\n{said}\nReview what they said, then decide between them."
    answers = [ask("a fair judge", request, 0.1)[1]] + [answer for _, answer in solutions]
    readable = [answer for answer in answers if answer and not answer.startswith("(the reply has no key")]
    return {"answer": (readable or answers)[0]}
