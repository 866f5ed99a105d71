"""Files: safetensors, and the LoRA forms of other tools."""
