"""Every flag of the picture script, with the run that shows its effect: a file for each group of `--help`."""
