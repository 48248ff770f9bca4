# 2 to 4 calls a question: a draft, then reviews until one changes nothing, 3 at most.
def solver(agent, task):
    def solve(messages, instructions, keys):
        return agent.call_json_format_llm(
            messages,
            temperature=0.0,
            num_of_response=1,
            agent_role="a careful mathematician",
            return_dict_keys=keys,
            instructions=instructions + " Think step by step. The answer is one number without units.",
        )[0]

    question = {"role": "user", "content": task}
    reply = solve([question], "Solve the problem.", ["reasoning", "answer"])
    answer = agent.extract_answer_str(str(reply["answer"]))
    for _ in range(3):
        draft = {"role": "assistant", "content": f"{reply['reasoning']}\nThe answer is {answer}"}
        review = {"role": "user", "content": "Review your solution: name each mistake in it, then correct it."}
        reply = solve([question, draft, review], "Keep an answer that is right.", ["review", "reasoning", "answer"])
        revised = agent.extract_answer_str(str(reply["answer"]))
        if revised == answer or not any(c.isdigit() for c in revised):
            break
        answer = revised
    return {"answer": answer}
