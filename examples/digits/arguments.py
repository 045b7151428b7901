"""The command line of the scripts."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import data
import keras
import model
import tensorflow as tf

import tfdist

STRATEGIES = ("auto", "default", "mirrored", "multiworker", "horovod")


def parse(
    description: str | None,
    distributed: bool = False,
    fit: bool = False,
    add_others: Callable[[argparse.ArgumentParser], None] | None = None,
) -> argparse.Namespace:
    """Reads the options; call it before anything else touches a device.

    Args:
        description: The script's docstring, shown by `--help`.
        distributed: Whether the script takes `--strategy`.
        fit: Whether it takes options that become `callbacks` for `fit`.
        add_others: Adds those that only this script takes.
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
    if fit:
        compressors = tfdist.compression.names()
        parser.add_argument("--compression", choices=compressors, help="of gradients")
        parser.add_argument("--recover", metavar="DIR", help="where checkpoints are")
    if add_others:
        add_others(parser)
    options = parser.parse_args()
    if distributed and options.strategy == "mirrored":
        split_cpu()
    if fit:
        options.callbacks = asked_callbacks(options)
    return options


def asked_callbacks(options: argparse.Namespace) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that the options ask for."""
    callbacks = []
    if options.compression:
        callbacks.append(tfdist.callbacks.GradientCompression(options.compression))
    if options.recover:
        callbacks.append(
            tfdist.callbacks.CheckpointRecovery(options.recover, every_steps=20)
        )
    return callbacks


def split_cpu() -> None:
    """Makes two devices of the CPU if there is no GPU to mirror on."""
    if not tf.config.list_physical_devices("GPU"):
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
