"""Measurements that are run by hand; nothing of it is installed."""
