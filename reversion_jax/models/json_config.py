"""Reads and writes the config.json files of diffusers and transformers."""

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any


def read(cls: type, values: Mapping[str, Any], fixed: Mapping[str, Any], *, strict: bool) -> Any:
    """Builds the config dataclass `cls` from the values of a config.json.

    fixed: values that every Stable Diffusion 1.x model has and that this code relies on. A key of `fixed` may be absent
    from `values`, but must not have another value. strict: whether to raise an error for keys that are neither fields
    of `cls` nor in `fixed`, unless their value is null or false. Raises ValueError, which names the key.
    """
    defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}
    given = {}
    for key, value in values.items():
        said = f"{cls.__name__}: {json.dumps(key)[1:-1]}={json.dumps(value)}"
        if key in fixed:
            if value != fixed[key]:
                raise ValueError(f"{said} is not Stable Diffusion 1.x, which has {json.dumps(fixed[key])}")
        elif key in defaults and value is not None:
            if not _is_like(value, defaults[key]):
                raise ValueError(f"{said} is not supported: its value must be like {defaults[key]!r}")
            given[key] = type(defaults[key])(value)
        elif strict and not key.startswith("_") and value is not None and value is not False:
            raise ValueError(f"{said} is unknown to Stable Diffusion 1.x")
    return cls(**given)


def _is_like(value: Any, default: Any) -> bool:
    """Returns whether a JSON value has the type of a field's default.

    A list counts as a tuple if its items have the type of the default's first item. An integer counts as a float.
    """
    if isinstance(default, tuple):
        return isinstance(value, list) and bool(value) and all(_is_like(item, default[0]) for item in value)
    if isinstance(default, float):
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    return type(value) is type(default)


def write(config: Any, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config.json of a config dataclass: its fields and the fixed values, with tuples as lists."""
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
    return {**fixed, **fields}


def check_blocks(config: Any, key: str, supported: tuple[str, ...]) -> None:
    """Checks the list of block types in the field `key` of a config.

    Raises ValueError if a block type is not supported, or if the list has another length than block_out_channels.
    """
    blocks, name = getattr(config, key), type(config).__name__
    unknown = [block for block in blocks if block not in supported]
    if unknown:
        raise ValueError(f"{name}: {key} has {unknown[0]!r}: use one of {', '.join(supported)}")
    if len(blocks) != len(config.block_out_channels):
        raise ValueError(f"{name}: {key} and block_out_channels must have the same length")
