"""The verb `tfdist estimate`: what an all-reduce will cost, before it is paid."""

from tfdist.launch.estimate.command import add_parser as add_parser
