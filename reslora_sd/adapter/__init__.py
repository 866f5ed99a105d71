"""Puts blocks into a model and takes them out again."""
