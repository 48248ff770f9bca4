"""Results → tables, plots, one HTML page."""
