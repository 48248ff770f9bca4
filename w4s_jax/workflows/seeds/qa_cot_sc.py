# 1 call of 5 samples a question.
def solver(agent, task):
    def spelt(value):
        """A JSON value as an answer: yes for true, nothing for null, 12 for 12.0, commas between a list's parts."""
        if value is None or isinstance(value, bool):
            return {None: "", True: "yes", False: "no"}[value]
        if isinstance(value, list):
            return ", ".join(map(spelt, value))
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()

    def plain(answer):
        """The form in which answers are compared: no case, spaces, articles, marks or brackets around a letter."""
        words = answer.casefold().strip(" .$\"'").split()
        text = "".join(word for word in words if word not in ("a", "an", "the")) or "".join(words)
        return text[1:-1] if len(text) == 3 and text[0] + text[2] == "()" else text

    messages = [{"role": "user", "content": task}]
    replies = agent.call_json_format_llm(
        messages,
        temperature=0.8,
        num_of_response=5,
        agent_role="a careful reader",
        return_dict_keys=["reasoning", "answer"],
        instructions="Think step by step. Answer in the form that the question asks for, as short as possible.",
    )
    answers = [spelt(reply["answer"]) for reply in replies]
    answers = [answer for answer in answers if answer and not answer.startswith("(the reply has no key")] or [""]
    votes = [plain(answer) for answer in answers]
    return {"answer": answers[votes.index(max(votes, key=votes.count))]}
