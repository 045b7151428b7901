"""The verb `tfdist run`: starts a script on several devices, processes or hosts."""

from tfdist.launch.run.command import add_parser

__all__ = ["add_parser"]
