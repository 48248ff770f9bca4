"""Entry points: `python -m experiments.NAME`; the only place with flags."""
