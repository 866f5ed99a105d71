"""Merges the residual paths away: an adapter in, an ordinary LoRA out."""
