"""Experiments as plain Python: `default.py` declares every field, the other files are deltas over it."""
