"""Tests of the paper's items."""
