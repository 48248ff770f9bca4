"""What runs inside the sandbox: standard library only, started as plain files, never with the project.

pool ─ zygote (`zygote`) ─ fork ─ `guard` on ─ `runner` compiles and runs the workflow ─ `agent` asks the pool

The zygote imports this folder as the top-level package `child`, so nothing here may
import `w4s_jax`, and everything here is relative. `parsing` and `frames` are pure and
are also used and tested from outside.
"""
