"""Filters as mathematics: pure functions of a frequency grid, in float64 NumPy."""
