"""The executor: a model behind an API, metered, cached and kept within a budget.

base (the door and its faults) ← client (HTTP) · simulator; metered = cache → budget → limits → door → ledger
"""
