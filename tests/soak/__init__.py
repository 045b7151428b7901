"""Jobs whose ranks are killed at random, again and again: `python -m tests.soak`."""
