"""The meta-agent as arrays: model, placement, adapters, Hugging Face files."""
