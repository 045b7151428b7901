"""The command line: `tfdist VERB ...`, one verb a module."""
