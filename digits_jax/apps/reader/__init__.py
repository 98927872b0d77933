"""Finds digits in pictures, normalizes them to MNIST's format, and classifies or rejects them."""

from etils import epy

with epy.lazy_api_imports(globals()):  # so that a command reports a wrong argument before JAX is imported
    from digits_jax.apps.reader.contact_sheet import ContactSheet, draw_cell, draw_sheet
    from digits_jax.apps.reader.digit_reader import DigitReader, Page, Reading, load_reader
    from digits_jax.apps.reader.normalization import find_digits
    from digits_jax.apps.reader.numbers import Number, find_numbers
    from digits_jax.apps.reader.pictures import decode_picture, list_pictures, read_picture, to_pixels

__all__ = [
    "ContactSheet", "DigitReader", "Number", "Page", "Reading", "decode_picture", "draw_cell", "draw_sheet",
    "find_digits", "find_numbers", "list_pictures", "load_reader", "read_picture", "to_pixels",
]  # fmt: skip
