"""How the processes of one job find out, in Python, who is doing what."""
