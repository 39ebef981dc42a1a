"""Settings of a command from a TOML file: the same keys as its flags, which take precedence."""

import argparse
import dataclasses
import tomllib
import types
import typing
from pathlib import Path
from typing import Any

from jaxflow import _check

KINDS = {int: "an integer", float: "a number", bool: "true or false", str: "a string", Path: "a string"}


def find_file(arguments: list[str]) -> Path | None:
    """The file that the arguments name by `--file`, before the others are read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--file", nargs="?", type=Path)
    return parser.parse_known_args(arguments)[0].file


def read_settings(settings: type, path: Path, hidden: tuple[str, ...]) -> Any:
    """The settings with the values of a TOML file, the others and those `hidden` at their defaults.

    Raises `OSError` for a file that cannot be read, and `ValueError` or `TypeError`, naming the file, for one that is
    not TOML, an unknown key (the nearest is suggested) or a value of another type.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise OSError(f"file {path} could not be read: {error.strerror}.") from error
    except ValueError as error:  # not TOML, or not text
        raise ValueError(f"file {path} is not TOML: {error}.") from error
    hints = typing.get_type_hints(settings)
    hints = {f.name: hints[f.name] for f in dataclasses.fields(settings) if f.name not in hidden}
    chosen: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if name not in hints:
            _check.require_choice(f"keys of {path}", name, hints)
        if name in chosen:
            raise ValueError(f"{path} must give {name} once, got it with a hyphen and with an underscore.")
        if name == "set" and isinstance(value, dict):
            value = [f"{hyperparameter}={_word(setting)}" for hyperparameter, setting in value.items()]
        chosen[name] = _convert(f"{key} in {path}", value, hints[name])
    return settings(**chosen)


def _word(value: Any) -> str:
    """A hyperparameter as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _convert(what: str, value: Any, hint: Any) -> Any:
    """A value of the type of its setting."""
    if typing.get_origin(hint) is tuple:
        kind = typing.get_args(hint)[0]
        if not isinstance(value, list):
            raise TypeError(f"{what} must be a list, got {value!r}.")
        return tuple(_convert(f"{what}: each entry", entry, kind) for entry in value)
    if isinstance(hint, types.UnionType):  # TOML has no null: leave the key out
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number if hint is float else isinstance(value, bool) if hint is bool else None
    if fits is None:
        wanted = str if hint is Path else hint
        fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if not fits:
        raise TypeError(f"{what} must be {KINDS[hint]}, got {value!r}.")
    convert: Any = hint
    return convert(value)
