"""What the ranks run, a program for each way to train."""
