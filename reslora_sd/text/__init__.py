"""What the language experiments need: tasks, models, methods, training and evaluation."""
