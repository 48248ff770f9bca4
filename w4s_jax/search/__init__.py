"""Searches: look for the best workflow of one task with the meta-agent at hand.

SearchTask, meta-agent → **SearchEngine** ⇄ Strategy → turns (stored at once) → SearchResult
"""
