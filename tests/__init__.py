"""tfdist's tests: unit (one process), parallel (every strategy), integration."""
