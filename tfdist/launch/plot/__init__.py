"""The verb `tfdist plot`: one picture of what Telemetry has measured."""

from tfdist.launch.plot.command import add_parser as add_parser
