"""The paper's tables and figures, each by one command: `python -m reslora_sd.paper plan|run|render ITEM...`."""
