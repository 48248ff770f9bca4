"""Starts one run on several processes or machines."""
