"""Tasks: questions with a scoring rule; see `registry.make_task`."""
