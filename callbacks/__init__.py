"""Callbacks for training on several replicas, installed as `tfdist.callbacks`."""
