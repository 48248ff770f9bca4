# 2 to 4 calls a question: a draft, then reviews until one changes nothing, 3 at most.
def solver(agent, task):
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
    for _ in range(3):
        draft = {"role": "assistant", "content": f"{reply['reasoning']}\nThe answer is {reply['answer']}"}
        review = {"role": "user", "content": "Review your reasoning against the question: what is wrong or overlooked?"}
        instructions = "Think step by step. Correct the answer where it is wrong, else repeat it."
        revised = solve([question, draft, review], ["review", "reasoning", "answer"], instructions)
        answer = str(revised["answer"]).strip()
        if answer in ("", str(reply["answer"])) or answer.startswith("(the reply has no key"):
            break
        reply = revised
    return {"answer": str(reply["answer"])}
