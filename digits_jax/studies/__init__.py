"""Measurements and studies; nothing in the core imports them."""
