"""Training over slow links, tfdist beside its peers: `python -m benchmarks.network`.

Every method trains the same models on the same test hosts in the same run. Step time
and bytes are measured, and set against what one process takes and what the wire allows.

    python -m benchmarks.network --quick               # about 5 minutes
    python -m benchmarks.network --with-torch          # all, PyTorch's DDP among it
    python -m benchmarks.network --hosts 4 --quick     # the bytes of 4 hosts

It takes root (hosts are namespaces) and Horovod, and writes report.md, report.png and
results.json to `runs/network`, or to `--out`. A method is one row in `methods.py`, a
model one file in `models`, and what the ranks run is in `programs`.
"""
