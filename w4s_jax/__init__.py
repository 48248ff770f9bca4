"""Trains a small language model to write workflows for a strong one (W4S, arXiv 2504.04785)."""
