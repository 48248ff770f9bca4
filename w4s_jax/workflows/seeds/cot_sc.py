# 1 call of 5 samples a question.
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
    numbers = [answer for answer in answers if any(c.isdigit() for c in answer)] or answers
    return {"answer": max(numbers, key=numbers.count)}
