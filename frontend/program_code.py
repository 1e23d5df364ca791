"""What in a saved program is code: torch would run it when the file is loaded or its program is.

``torch.export.save`` writes a zip archive with a program as JSON, tensors, and pickles of example
inputs. *Seen* in torch 2.13's ``_export/serde`` and ``export/pt2_archive``: a pickle that is more
than tensors is unpickled in full, expressions of sizes go through ``sympify``, which is ``eval``,
guards and names become Python source, and the structure of the inputs can name modules to import.
"""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch._export.verifier import SpecViolationError
from torch.export.pt2_archive import constants as archive
from torch.export.pt2_archive._package import PT2ArchiveReader

from frontend.errors import first_line

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

# What torch raises on damaged or hostile content.
LOAD_ERRORS = (
    RuntimeError,
    ValueError,
    LookupError,
    OSError,
    AssertionError,
    AttributeError,
    TypeError,
    ArithmeticError,
    EOFError,
    ImportError,
    MemoryError,
    struct.error,
    SpecViolationError,
    zipfile.BadZipFile,
    pickle.UnpicklingError,
)

# Expressions of sizes and guards: sympy's and torch's functions, and Python's that compare them.
_FUNCTIONS = frozenset(
    (
        *("Symbol", "Integer", "Float", "Rational", "Max", "Min", "Mod", "Eq", "Ne", "Lt", "Le"),
        *("Gt", "Ge", "And", "Or", "Not", "Xor", "Piecewise", "ExprCondPair", "floor", "ceiling"),
        *("Abs", "Pow", "Add", "Mul", "sqrt", "max", "min", "abs", "FloorDiv", "ModularIndexing"),
        *("Where", "PythonMod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift"),
        *("RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat"),
        *("TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity"),
        "IsNonOverlappingAndDenseIndicator",
    )
)
_METHODS = frozenset(("size", "stride", "storage_offset", "floor", "ceil", "trunc", "sqrt"))
_PARTS = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.Name,
    ast.Constant, ast.Subscript, ast.Attribute, ast.Tuple, ast.keyword, ast.operator,
    ast.unaryop, ast.boolop, ast.cmpop, ast.expr_context,
)  # fmt: skip
_MAX_EXPRESSION = 20_000  # characters
# Larger powers and shifts of numbers take for ever to write out.
_MAX_EXPONENT = 64
_POWERS = ("Pow", "PowByNatural", "FloatPow", "LShift", "pow")

_OPERATOR = re.compile(
    r"torch\.ops(\.(?!__)\w+){2,3}|_operator\.(?!methodcaller|attrgetter|_)\w+|math\.(?!_)\w+"
    r"|torch\.(_sym_sqrt|sym_\w+)|#[\w.:]+"
)
# These call compiled code or open a file by name.
_FORBIDDEN = re.compile(
    r"torch\.ops\.(higher_order\.(triton_kernel|aoti_call|executorch_call|call_torchbind)"
    r"|aten\.from_file)"
)
# Python types that a dictionary in the inputs may make its missing entries of.
_FACTORIES = frozenset(("list", "dict", "set", "tuple", "int", "float", "str", "bool"))
_NAME_KEYS = frozenset(("name", "as_name", "forward_arg_names", "field_names"))
_FREE_TEXT = frozenset(("as_string", "as_strings", "metadata"))
_QUOTES = re.compile(r"""["'\\\x00-\x1f\x7f\u2028\u2029]""")


def code_in(reader: PT2ArchiveReader) -> Iterator[str]:
    """What in an archive asks for code, each as ``member: what``; nothing for plain programs.

    Raises:
        LOAD_ERRORS: the archive is damaged, or is none.
    """
    names = reader.get_file_names()
    for name in names:
        if name.startswith(archive.AOTINDUCTOR_DIR):
            yield f"{name}: compiled code"
    prefix, suffix = archive.MODELS_FILENAME_FORMAT.split("{}")
    for name in names:
        if name.startswith(archive.MODELS_DIR):
            model = name[len(prefix) : -len(suffix)]
            yield from _code_of_model(reader, model, names)
            document: Json = json.loads(reader.read_bytes(name))
            yield from dict.fromkeys(f"{name}: {found}" for found in _code_in_json(document, ""))


def _code_of_model(reader: PT2ArchiveReader, model: str, names: list[str]) -> Iterator[str]:
    """Pickles that belong to one model of the archive."""
    pickles = [archive.SAMPLE_INPUTS_FILENAME_FORMAT.format(model)]
    for folder, form in (
        (archive.WEIGHTS_DIR, archive.WEIGHTS_CONFIG_FILENAME_FORMAT),
        (archive.CONSTANTS_DIR, archive.CONSTANTS_CONFIG_FILENAME_FORMAT),
    ):
        config = form.format(model)
        if f"{folder}{model}.pt" in names:  # as older releases wrote it
            pickles.append(f"{folder}{model}.pt")
        elif config in names:
            for entry in json.loads(reader.read_bytes(config))["config"].values():
                path = entry["path_name"]
                if path.startswith(archive.CUSTOM_OBJ_FILENAME_PREFIX):
                    yield f"{folder}{path}: a TorchScript object"
                elif path.startswith(archive.OPAQUE_OBJ_FILENAME_PREFIX):
                    yield f"{folder}{path}: a pickled object"
                elif entry["use_pickle"]:
                    pickles.append(f"{folder}{path}")
    for path in pickles:
        found = code_in_pickle(reader.read_bytes(path)) if path in names else ""
        if found:
            yield f"{path}: {found}"


def code_in_pickle(data: bytes) -> str:
    """What ``data`` needs beyond tensors, numbers, text and containers; ``""`` if nothing."""
    if not data:
        return ""
    try:
        torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except LOAD_ERRORS as error:
        return _unsafe_names(data) or f"what is no tensor ({first_line(error)[:80]})"
    return ""


def _unsafe_names(data: bytes) -> str:
    """Functions and classes that a pickle names, without running it."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(data))
    except LOAD_ERRORS:  # no archive of torch.save: torch says what it is
        return ""
    return ", ".join(sorted(found))


def _code_in_json(value: Json, key: str) -> Iterator[str]:
    """What in a part of the program would be evaluated, imported or become Python source."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if _QUOTES.search(name):
                yield f"a name with quotes or control characters: {name[:80]!r}"
            if key not in _FREE_TEXT and name not in _FREE_TEXT:
                yield from _code_in_json(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _code_in_json(inner, key)
    elif isinstance(value, str) and not _is_plain(value, key):
        yield f"{_WHAT.get(key, 'a name that is none')}: {value[:80]!r}"


_WHAT = {
    "expr_str": "an expression that is no arithmetic",
    "guards_code": "a condition that is no comparison of sizes",
    "target": "an operator that calls code",
    "as_operator": "an operator that calls code",
    "in_spec": "inputs that import a module",
    "out_spec": "outputs that import a module",
}


def _is_plain(value: str, key: str) -> bool:
    if key in ("expr_str", "guards_code"):
        return is_arithmetic(value)
    if key in ("in_spec", "out_spec"):
        return _is_plain_structure(json.loads(value))
    if key in ("target", "as_operator"):
        return bool(_OPERATOR.fullmatch(value)) and not _FORBIDDEN.match(value)
    if key in _NAME_KEYS:
        return value == "" or value.isidentifier()
    return not _QUOTES.search(value)


def is_arithmetic(text: str) -> bool:
    """Whether ``text`` is an expression of sizes and nothing else, small enough to work out."""
    if len(text) > _MAX_EXPRESSION:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(_is_arithmetic_part(part) for part in ast.walk(tree))


def _is_arithmetic_part(part: ast.AST) -> bool:
    if not isinstance(part, _PARTS):
        return False
    if isinstance(part, ast.Name):
        return not part.id.startswith("_")
    if isinstance(part, ast.Attribute):
        return part.attr in _METHODS
    if isinstance(part, ast.Constant):
        is_name = isinstance(part.value, str) and not _QUOTES.search(part.value)
        return is_name or isinstance(part.value, bool | int | float)
    if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Pow | ast.LShift):
        return _is_small_power(part.left, part.right)
    if isinstance(part, ast.Call):
        called = part.func
        if isinstance(called, ast.Name):
            power = called.id in _POWERS and len(part.args) == 2
            return called.id in _FUNCTIONS and (not power or _is_small_power(*part.args))
        return isinstance(called, ast.Attribute)
    return True


def _is_small_power(base: ast.expr, exponent: ast.expr) -> bool:
    numbers = [n.value for n in ast.walk(exponent) if isinstance(n, ast.Constant)]
    nested = any(
        isinstance(n, ast.Pow) or (isinstance(n, ast.Name) and n.id in _POWERS)
        for part in (base, exponent)
        for n in ast.walk(part)
    )
    return not nested and all(isinstance(n, int) and abs(n) <= _MAX_EXPONENT for n in numbers)


def _is_plain_structure(value: Json) -> bool:
    """Whether the structure of inputs or outputs names no module to import."""
    if isinstance(value, list):
        return all(_is_plain_structure(inner) for inner in value)
    if not isinstance(value, dict):
        return True
    if "__enum__" in value:
        return False
    if "default_factory_module" in value:
        factory = value.get("default_factory_name")
        return value["default_factory_module"] == "builtins" and factory in _FACTORIES
    context = value.get("context")
    inner = json.loads(context) if isinstance(context, str) else context
    return _is_plain_structure(inner) and _is_plain_structure(value.get("children_spec"))
