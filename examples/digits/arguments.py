"""The command line of the scripts."""

from __future__ import annotations

import argparse
from pathlib import Path

import data
import model
import tensorflow as tf

STRATEGIES = ("auto", "default", "mirrored", "multiworker", "horovod")


def parse(description: str | None, distributed: bool = False) -> argparse.Namespace:
    """Reads the options; call it before anything else touches a device.

    Args:
        description: The script's docstring, shown by `--help`.
        distributed: Whether the script takes `--strategy`.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = data.default_folder()
    parser.add_argument("--data-dir", type=Path, default=folder, help=f"now {folder}")
    parser.add_argument("--epochs", type=int, default=model.EPOCHS)
    parser.add_argument("--seed", type=int, default=1)
    if distributed:
        parser.add_argument("--strategy", choices=STRATEGIES, default="auto")
    options = parser.parse_args()
    if distributed and options.strategy == "mirrored":
        split_cpu()
    return options


def split_cpu() -> None:
    """Makes two devices of the CPU if there is no GPU to mirror on."""
    if not tf.config.list_physical_devices("GPU"):
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
