"""The pytest hooks and fixtures, nothing else."""
