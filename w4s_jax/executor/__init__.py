"""The executor: a model behind an API, metered, cached and kept within a budget.

base (the back end and its faults) ← client (HTTP) · simulator; metered = cache → budget → limits → back end → ledger
"""
