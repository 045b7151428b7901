"""What saving costs, and how long recovery takes: `python -m benchmarks.recovery`."""
