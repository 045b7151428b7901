"""Whether compressed training reaches the accuracy of uncompressed training."""
