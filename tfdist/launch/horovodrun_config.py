"""horovodrun's YAML settings, checked by Horovod's own parser.

horovodrun ignores keys that it does not know, without a word: a misspelt timeout
is then no timeout. Which keys exist is not written down here but asked of the
parser that will read them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tfdist.errors import nearest
from tfdist.launch.errors import CommandError

Settings = dict[str, Any]


class _Recorder(dict[str, Any]):
    """A mapping that remembers which of its keys were asked for.

    Args:
        content: The mapping.
        endless: Answer every question for a missing key with such a mapping, so
            that the parser goes on and asks for the keys below it.
    """

    def __init__(self, content: Mapping[str, Any], *, endless: bool = False):
        super().__init__(
            (key, _Recorder(value) if isinstance(value, dict) else value)
            for key, value in content.items()
        )
        self.asked: dict[str, Any] = {}
        self._endless = endless

    def __bool__(self) -> bool:
        return self._endless or bool(len(self))

    def get(self, key: str, default: Any = None) -> Any:
        value = super().get(key, default)
        # The controller alone is a word and no section.
        if self._endless and key != "controller":
            value = self.asked.get(key, _Recorder({}, endless=True))
        self.asked[key] = value
        return value


def known_keys() -> set[str]:
    """Returns all keys that Horovod reads, sections as "params.cycle_time_ms"."""
    everything = _Recorder({}, endless=True)
    _parse(everything)
    return {
        name
        for section, value in everything.asked.items()
        for name in (
            [f"{section}.{key}" for key in getattr(value, "asked", {})] or [section]
        )
    }


def ignored_keys(settings: Mapping[str, Any]) -> list[str]:
    """Returns the keys of the settings that Horovod's parser never reads.

    Args:
        settings: What the YAML file holds.

    Example:
        >>> ignored_keys({"params": {"cycle_time": 1, "cycle_time_ms": 1}})
        ['params.cycle_time']
    """
    recorder = _Recorder(settings)
    _parse(recorder)
    return _unasked(recorder)


def read_settings(path: Path) -> Settings:
    """Reads and checks a file for `horovodrun --config-file`.

    Args:
        path: The YAML file.

    Returns:
        Its settings.

    Raises:
        CommandError: There is no such file, it is no YAML mapping, a key would be
            ignored, or a value is refused.
    """
    settings = _load(path)
    keys = known_keys()
    for section, value in settings.items():
        inside = [key for key in keys if key.startswith(f"{section}.")]
        if inside and not isinstance(value, dict):
            raise CommandError(
                f"In {path}, {section!r} is not a section but {value!r}.",
                hint=f"indent its settings under it, such as {min(inside)!r}",
            )
    try:
        ignored = ignored_keys(settings)
        if not ignored:
            _check_values(settings)
    except (AttributeError, TypeError, ValueError) as error:
        raise CommandError(
            f"Horovod refuses a value in {path}: {error}.",
            hint="horovodrun_configs/ has an example of every setting",
        ) from None
    if ignored:
        meant = _meant(ignored[0], keys)
        raise CommandError(
            f"Horovod would ignore the key {ignored[0]!r} in {path}.",
            hint=f"did you mean {meant!r}?" if meant else f"it knows {_listed(keys)}",
        )
    return settings


def _load(path: Path) -> Settings:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text())
    except OSError as error:
        raise CommandError(
            f"The settings {path} cannot be read: {error.strerror}.",
            hint="--config takes a YAML file like those in horovodrun_configs/",
        ) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise CommandError(
            f"{path} is not YAML: {line}.",
            hint="--config takes a YAML file like those in horovodrun_configs/",
        ) from None
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(k, str) for k in settings):
        raise CommandError(
            f"{path} holds a {type(settings).__name__} and not named settings.",
            hint="--config takes a YAML file like those in horovodrun_configs/",
        )
    return settings


def _config_parser() -> Any:
    try:
        with warnings.catch_warnings():
            # horovod.runner.js_run imports distutils.
            warnings.simplefilter("ignore", DeprecationWarning)
            from horovod.runner.common.util import config_parser
    except ImportError:
        raise CommandError(
            "--config is for horovodrun, and Horovod is not installed.",
            hint="tfdist horovod install",
        ) from None
    return config_parser


def _parse(settings: Mapping[str, Any]) -> SimpleNamespace:
    arguments = SimpleNamespace(use_gloo=False, use_mpi=False)
    _config_parser().set_args_from_config(arguments, settings, set())
    return arguments


def _check_values(settings: Settings) -> None:
    """Lets Horovod's parser check values; what is not set counts as None there."""

    class Arguments(SimpleNamespace):
        def __getattr__(self, name: str) -> None:
            return None

    _config_parser().validate_config_args(Arguments(**vars(_parse(settings))))


def _unasked(recorder: _Recorder) -> list[str]:
    names = [key for key in recorder if key not in recorder.asked]
    for key, value in recorder.items():
        if isinstance(value, _Recorder) and key in recorder.asked:
            names += [f"{key}.{name}" for name in _unasked(value)]
    return names


def _meant(ignored: str, keys: set[str]) -> str | None:
    """Returns the nearest key: of all, else by its last part (a wrong section)."""
    by_name = {key.rpartition(".")[2]: key for key in sorted(keys)}
    sections = {key.partition(".")[0] for key in keys}
    last = nearest(ignored.rpartition(".")[2], by_name)
    return nearest(ignored, keys | sections) if last is None else by_name[last]


def _listed(keys: set[str]) -> str:
    return ", ".join(sorted({key.partition(".")[0] for key in keys}))
