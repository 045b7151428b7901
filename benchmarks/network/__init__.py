"""Training over slow links, tfdist beside its peers: `python -m benchmarks.network`.

Every method trains the same models on the same test hosts in the same run. Step time
and bytes are measured, and set against what one process takes and what the wire allows.
"""
