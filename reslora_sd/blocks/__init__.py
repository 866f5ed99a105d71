"""The blocks: Eqs. 1 to 4, and how they run inside a model."""
