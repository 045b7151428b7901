"""The verb `tfdist checkpoint`: what is in a directory of checkpoints."""

from tfdist.launch.checkpoint.command import add_parser as add_parser
