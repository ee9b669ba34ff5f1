"""Builds objects from configuration nodes: `_target_` names the class, and its constructor's signature is the schema.

Each parameter therefore appears twice: in the constructor, with its type, and in the YAML, with its value. Constructor defaults,
for use from Python, equal the YAML's values (`tests/test_defaults.py`). Types are checked by pydantic against the annotations,
ranges by the constructor itself through `require`.
"""

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from omegaconf import OmegaConf
from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

from metarun.config import ConfigError, RangeError, nearest
from metarun.declared import hints_of, locate


def build(node: Any, *args: Any, key: str, kind: type = object, **given: Any) -> Any:
    """Call ``node._target_`` with ``args``, ``given`` and the node's other keys.

    ``key`` is the node's path in the configuration, for messages, and ``kind`` the expected base class. Parameters filled by
    ``args`` and ``given`` are not configuration keys.

    Raises:
        ConfigError: the target is not of ``kind``, a key is unknown or missing, or a value has the wrong type or is out of range.
    """
    values: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    if not isinstance(values, Mapping) or "_target_" not in values:
        raise ConfigError(f"{key}: expected keys and a _target_, found {values!r}")
    target = locate(values["_target_"], kind, f"{key}._target_")
    schema = config_parameters(target, len(args), given)
    arguments = {}
    for name, value in values.items():
        if name == "_target_":
            continue
        if name not in schema:
            raise ConfigError(f"{key}.{name}: no such key{nearest(name, schema)}")
        arguments[name] = _typed(value, schema[name], f"{key}.{name}")
    for name, parameter in schema.items():
        if parameter.default is parameter.empty and name not in arguments:
            raise ConfigError(f"{key}.{name}: missing, and it has no default")
    try:
        return target(*args, **given, **arguments)
    except RangeError as error:
        if error.key.partition(".")[0] in schema:
            raise RangeError(f"{key}.{error.key}", error.value, error.expected) from None
        raise
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError) or not target.__module__.startswith("torch."):
            raise
        raise ConfigError(f"{key}: {error}") from None  # torch's own classes check their arguments


def config_parameters(target: Any, positional: int, given: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """The parameters of ``target`` that a configuration may set, annotations resolved.

    ``**common`` in the constructor of a class stands for the keyword-only parameters of the base class's constructor, so that keys
    which many classes share are declared and documented once.
    """
    first, *inherited = _constructors(target)
    parameters = inspect.signature(target).parameters
    accepted = dict(list(_annotated(parameters, first).items())[positional:])
    for constructor in inherited:
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
        parameters = inspect.signature(constructor).parameters
        shared = {name: p for name, p in _annotated(parameters, constructor).items() if p.kind is p.KEYWORD_ONLY}
        accepted = shared | accepted
    return {name: p for name, p in accepted.items() if name not in given and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _constructors(target: Any) -> list[Any]:
    """The constructors of a class and its bases, in method resolution order; a function is its own constructor."""
    if not inspect.isclass(target):
        return [target]
    return [vars(kind)["__init__"] for kind in target.__mro__ if "__init__" in vars(kind)]


def _annotated(parameters: Mapping[str, inspect.Parameter], callee: Any) -> dict[str, inspect.Parameter]:
    hints = hints_of(callee)
    return {name: p.replace(annotation=hints.get(name, Any)) for name, p in parameters.items()}


def _typed(value: Any, parameter: inspect.Parameter, key: str) -> Any:
    if value == "???":
        raise ConfigError(f"{key}: missing; give it as {key}=VALUE")
    if isinstance(value, Mapping) and "_target_" in value:  # a nested object, built by the constructor that receives it
        return value
    hint = parameter.annotation
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except PydanticSchemaGenerationError:
        return value
    except Exception as error:  # pydantic rejects a config for types that have their own
        if getattr(error, "code", None) != "type-adapter-config-unused":
            raise
        adapter = TypeAdapter(hint)
    if any(abs(number) >= 2**53 for number in _integers(value)):
        raise ConfigError(f"{key}={value}: expected a whole number of at most 53 bits")
    try:
        # As JSON, so that a YAML list is accepted as a tuple and an integer as a float, but text is not accepted as a number.
        return adapter.validate_json(json.dumps(value))
    except ValidationError as error:
        choices = _literals(hint)
        if choices:
            raise ConfigError(f"{key}={value}: expected one of {', '.join(choices)}{nearest(str(value), choices)}") from None
        problem = error.errors(include_url=False)[0]["msg"]
        raise ConfigError(f"{key}={value}: expected {_readable(hint)}, {problem[:1].lower()}{problem[1:]}") from None


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _integers(part)


def _literals(hint: Any) -> list[str]:
    hint = next((h for h in get_args(hint) if get_origin(h) is Literal), hint)  # of `Literal[…] | None`
    return [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []


def _readable(hint: Any) -> str:
    return hint.__name__ if inspect.isclass(hint) and not get_args(hint) else str(hint).replace("typing.", "")
