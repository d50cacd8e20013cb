"""Real checkpoints in our modules."""
