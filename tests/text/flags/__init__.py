"""Every flag of the text scripts, and what matters of transformers' own, with the run that shows its effect."""
