# 7 calls a question: 3 roles in 2 rounds, and a judge.
def solver(agent, task):
    def ask(role, request, temperature):
        reply = agent.call_json_format_llm(
            [{"role": "user", "content": task + request}],
            temperature=temperature,
            num_of_response=1,
            agent_role=role,
            return_dict_keys=["reasoning", "answer"],
            instructions="Think step by step. The answer is one number without units.",
        )[0]
        return str(reply["reasoning"]), agent.extract_answer_str(str(reply["answer"]))

    roles = ["a mathematician who sets up equations", "a teacher who goes slowly", "an accountant who doubts figures"]
    said = ""
    for _ in range(2):
        request = f"\n\nThe agents said:\n{said}\nReview what they said, then give your own solution." if said else ""
        solutions = [ask(role, request, 0.8) for role in roles]
        said = "\n".join(
            f"Agent {i}: {reasoning} It is {answer}." for i, (reasoning, answer) in enumerate(solutions, 1)
        )
    request = f"\n\nThe agents said:\n{said}\nReview what they said, then decide between them."
    answers = [ask("a fair judge", request, 0.1)[1]] + [answer for _, answer in solutions]
    return {"answer": next((answer for answer in answers if any(c.isdigit() for c in answer)), answers[0])}
