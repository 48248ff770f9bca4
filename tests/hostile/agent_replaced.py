# Replaces the agent, its channel and the runner around itself; its answer is still only a claim.
# Expect: ok mine
# After: no process
# Enough: limits

import sys


def solver(agent, task):
    for name, module in list(sys.modules.items()):
        if name.startswith("child"):
            for attribute in list(vars(module)):
                if attribute.startswith(("_run", "parse", "Malformed")):
                    setattr(module, attribute, None)
    type(agent).call_llm = lambda *_, **__: ["everything is right"]
    return {"answer": "mine"}
