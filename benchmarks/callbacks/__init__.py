"""What callbacks add to a step: `python -m benchmarks.callbacks`."""
