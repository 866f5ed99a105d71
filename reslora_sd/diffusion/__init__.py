"""What the U-Net script needs: data, latents and embeddings, loss, validation pictures, the run folder."""
