"""The link plan: which block follows which."""
