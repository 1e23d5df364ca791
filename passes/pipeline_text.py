"""Pipelines as text: one expression for each pass, such as ``SplitAttention(form='batched')``.

Packages name the passes that they were made with in this way, and so do pipeline files. Only calls
of known passes and literals are read; nothing is evaluated.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from frontend.json_text import parse
from passes.base import Pass
from passes.default_pipeline import ALL_PASSES
from passes.errors import PassError
from passes.renamed import CLASSES, options_now

# 1e999 is how Python spells an infinity as a number; ``inf`` would be a name.
_INFINITY = "1e999"


class PipelineTextError(PassError):
    """A text names passes that cannot be made of it."""


def to_text(pipeline: Iterable[Pass]) -> list[str]:
    """Each pass as its class and its options."""
    return [_spelled(step) for step in pipeline]


def from_text(texts: Iterable[str], known: Sequence[type[Pass]] = ()) -> tuple[Pass, ...]:
    """The passes that ``to_text`` wrote.

    Args:
        texts: one for each pass.
        known: classes beside those of this package, which they win over.

    Raises:
        PipelineTextError: a text names a pass that is not known, or options that it refuses.
    """
    classes = {kind.__name__: kind for kind in (*ALL_PASSES, *known)}
    return tuple(_read(text, classes) for text in texts)


def to_json(pipeline: Iterable[Pass]) -> str:
    """``to_text`` as a JSON list."""
    return json.dumps(to_text(pipeline))


def from_json(text: str, known: Sequence[type[Pass]] = ()) -> tuple[Pass, ...]:
    """The passes of a JSON list, see ``from_text``.

    Raises:
        PipelineTextError: it is no list of texts, or see ``from_text``.
    """
    try:
        texts = parse(text)
    except ValueError as error:
        raise PipelineTextError("a pipeline is no JSON", found=str(error)) from error
    if not isinstance(texts, list) or not all(isinstance(entry, str) for entry in texts):
        raise PipelineTextError(
            "a pipeline is no list of texts",
            expected='such as ["FoldConstants()"]',
            found=text if len(text) < 80 else f"{text[:80]}...",
        )
    return from_text(texts, known)


def _spelled(value: object) -> str:
    match value:
        case Pass():
            options = ", ".join(f"{k}={_spelled(v)}" for k, v in value.options().items())
            return f"{type(value).__name__}({options})"
        case tuple():
            return f"({', '.join(map(_spelled, value))}{',' * (len(value) == 1)})"
        case list():
            return f"[{', '.join(map(_spelled, value))}]"
        case dict():
            return "{" + ", ".join(f"{_spelled(k)}: {_spelled(v)}" for k, v in value.items()) + "}"
        case float() if math.isinf(value):
            return _INFINITY if value > 0 else f"-{_INFINITY}"
        case _:
            return repr(value)


def _read(text: str, classes: Mapping[str, type[Pass]]) -> Pass:
    try:
        step = _value(ast.parse(text, mode="eval").body, classes)
    except (SyntaxError, ValueError) as error:
        raise PipelineTextError(
            "the text of a pass cannot be read",
            expected="a call of its class with literals, such as SplitAttention(form='split')",
            found=text,
            hint="give the passes themselves: pipeline=(...)",
        ) from error
    if not isinstance(step, Pass):
        raise PipelineTextError("the text names no pass", found=text)
    return step


def _value(spelled: ast.expr, classes: Mapping[str, type[Pass]]) -> Any:
    match spelled:
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords):
            options = {k.arg: _value(k.value, classes) for k in keywords if k.arg is not None}
            return _made(name, options, classes)
        case ast.Tuple(elts=parts):
            return tuple(_value(part, classes) for part in parts)
        case ast.List(elts=parts):
            return [_value(part, classes) for part in parts]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            pairs = zip(keys, values, strict=True)
            return {_value(k, classes): _value(v, classes) for k, v in pairs if k is not None}
        case ast.Attribute(value=ast.Name(id="torch"), attr=name):
            if isinstance(dtype := getattr(torch, name, None), torch.dtype):
                return dtype
            raise ValueError(f"torch.{name} is no dtype")
        case _:
            return ast.literal_eval(spelled)


def _made(name: str, options: dict[str, Any], classes: Mapping[str, type[Pass]]) -> Pass:
    if name not in classes:
        name = CLASSES.get(name, name)
    if name not in classes:
        raise PipelineTextError(
            f"the pass {name} is not known here",
            expected="a pass of this package, or one whose class is named beside it",
            found=name,
            hint=f"name its class: known_passes=({name},), or --with-pass file.py:{name}",
        )
    try:
        return classes[name](**options_now(name, options))
    except TypeError as error:
        raise PipelineTextError(
            f"the pass {name} has no such options",
            found=f"{', '.join(options) or 'none'}: {error}",
            hint="the class may have changed since; give the passes themselves: pipeline=(...)",
        ) from error
