"""Seed workflows, one a file: data, read as text by `w4s_jax.workflows.load_seed`, run by the sandbox alone."""
