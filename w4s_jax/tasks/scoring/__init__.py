"""The benchmarks' own rules: one module a family, each against hand-worked and hostile cases."""
