"""Rollouts: workflows are evaluated, turns collected, records stored.

plan → rounds → collect → candidates → evaluate ⇄ memo      (what runs)
                   └────→ store ⇄ records                   (what lasts)
"""
