"""What the training scripts share: settings, checks, the end of a training with several processes."""
