# 2 to 4 calls a question: a draft, then reviews until one changes nothing, 3 at most.
def solver(agent, task):
    def spelt(value):
        """A JSON value as an answer: yes for true, nothing for null, 12 for 12.0, commas between a list's parts."""
        if value is None or isinstance(value, bool):
            return {None: "", True: "yes", False: "no"}[value]
        if isinstance(value, list):
            return ", ".join(map(spelt, value))
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    def solve(messages, keys, instructions):
        return agent.call_json_format_llm(
            messages,
            temperature=0.0,
            num_of_response=1,
            agent_role="a careful reader",
            return_dict_keys=keys,
            instructions=f"{instructions} Answer in the form that the question asks for, as short as possible.",
        )[0]

    question = {"role": "user", "content": task}
    reply = solve([question], ["reasoning", "answer"], "Think step by step.")
    answer = spelt(reply["answer"])
    for _ in range(3):
        draft = {"role": "assistant", "content": f"{reply['reasoning']}\nThe answer is {answer}"}
        review = {"role": "user", "content": "Review your reasoning against the question: what is wrong or overlooked?"}
        instructions = "Think step by step. Correct the answer where it is wrong, else repeat it."
        reply = solve([question, draft, review], ["review", "reasoning", "answer"], instructions)
        revised = spelt(reply["answer"])
        if revised in ("", answer) or revised.startswith("(the reply has no key"):
            break
        answer = revised
    return {"answer": answer}
