"""Training scripts and what they share; the first ones arrive with the learned policies."""
