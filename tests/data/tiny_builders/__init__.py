"""Tiny TFDS builders; TFDS wants them in a package."""
