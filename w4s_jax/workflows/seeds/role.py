# 2 calls a question: the choice of a role, then the solution.
def solver(agent, task):
    roles = ["a mathematician", "a primary school teacher", "an accountant", "an engineer", "a statistician"]
    ask = f"{task}\n\nWho should solve this problem: {', '.join(roles)}? Name one of them; do not solve it."
    chosen = agent.call_llm([{"role": "user", "content": ask}], temperature=0.0, num_of_response=1)[0].lower()
    role = next((role for role in roles if role.split()[-1] in chosen), roles[0])
    replies = agent.call_json_format_llm(
        [{"role": "user", "content": task}],
        temperature=0.0,
        num_of_response=1,
        agent_role=role,
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. The answer is one number without units.",
    )
    return {"answer": agent.extract_answer_str(str(replies[0]["answer"]))}
