"""Device half: the very programs of a run, compiled ahead of time → memory a chip, traffic, a roofline."""
