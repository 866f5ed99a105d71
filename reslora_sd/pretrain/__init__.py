"""What train_scripts/pretrain_tiny_sd.py needs to make the embedded model: drawings, VAE, denoiser, loop, samples."""
