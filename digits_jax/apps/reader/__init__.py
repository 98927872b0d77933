"""Finds, normalizes and classifies digits in pictures."""
