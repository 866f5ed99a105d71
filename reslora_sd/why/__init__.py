"""What the paths of ResLoRA do: the measurements and plots of docs/why-it-works.md."""
