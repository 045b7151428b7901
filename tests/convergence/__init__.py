"""Whether what makes training cheaper leaves its accuracy as it is."""
