"""The search room: looks for the best workflow of one task with the meta-agent at hand.

Problem, meta-agent → **Strategy** → turns (stored at once) → Found
"""
