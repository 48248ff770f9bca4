"""What a run is made of, each part importable by itself: the config, the environment, searching, training, closing.

config → environment → search ⇄ meta-agent → training → closing → artifacts, summary

It may import everything; nothing imports it but the package's front door and the commands of
`experiments/`. What needs JAX is imported where a local model or training is asked for.
"""
