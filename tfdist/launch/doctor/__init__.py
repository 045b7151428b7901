"""The verb `tfdist doctor`: what is installed, and what is wrong with it."""

from tfdist.launch.doctor.command import add_parser as add_parser
