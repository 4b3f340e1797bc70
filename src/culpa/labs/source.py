"""Where in a program's source something is done, found by parsing it, so that a truth never holds a line number."""

from __future__ import annotations

import ast
from pathlib import Path

from culpa.errors import LabError
from culpa.labs.lab import CodeRange


def call_lines(file: Path, *, function: str, method: str) -> CodeRange:
    """The lines of the first call of `.method(...)` within the function of that name.

    Raises:
        LabError: there is no such call.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            for inner in ast.walk(node):
                if _calls(inner, method):
                    return _range(file, inner)
    raise LabError(f"{file} has no call of .{method}() in {function}()")


def function_lines(file: Path, *, function: str) -> CodeRange:
    """The lines of the function of that name, its body included.

    Raises:
        LabError: there is no such function.
    """
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return CodeRange(file=file, first_line=node.lineno, last_line=node.end_lineno or node.lineno)
    raise LabError(f"{file} has no function {function}()")


def script_function(file: Path, *, function: str) -> CodeRange:
    """The lines of a function of a script, in a language that begins it with `function NAME(` and ends it with a brace
    at the beginning of a line.

    Raises:
        LabError: there is no such function.
    """
    lines = file.read_text().split("\n")
    first = next((at for at, line in enumerate(lines, 1) if line.startswith(f"function {function}(")), None)
    if first is None:
        raise LabError(f"{file} has no function {function}()")
    last = next(at for at, line in enumerate(lines, 1) if at > first and line.startswith("}"))
    return CodeRange(file=file, first_line=first, last_line=last)


def _calls(node: ast.AST, method: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method


def _range(file: Path, node: ast.AST) -> CodeRange:
    assert isinstance(node, ast.Call)
    return CodeRange(file=file, first_line=node.lineno, last_line=node.end_lineno or node.lineno)
