"""Rollouts: workflows are evaluated, sampled actions become candidates, turns are recorded.

plan → candidates → evaluate ⇄ memo      (what runs)
        └────→ store ⇄ records           (what lasts)
"""
