"""The page that shows training runs side by side: `python -m app RUN_A RUN_B`."""
