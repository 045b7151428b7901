"""The verb `tfdist selftest`: proves that training on several ranks works here."""

from tfdist.launch.selftest.command import add_parser as add_parser
