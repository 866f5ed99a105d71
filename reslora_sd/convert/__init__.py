"""The command reslora-convert: LoRA files from one form to another, merged, cut, fused or looked at."""
