"""Names of functions as a programmer wrote them."""

from __future__ import annotations

import importlib.util
import re
from typing import Final

MAX_MANGLED: Final = 600
MAX_NAME: Final = 200
_CLONE: Final = re.compile(r"(\.(cold|part|isra|constprop|lto_priv|llvm|localalias|ipcp)(\.\d+)*)+$")
"""What compilers append to the copies they make of a function."""
_RUST_HASH: Final = re.compile(r"::h[0-9a-f]{16}$")
_RUST_ESCAPES: Final = {"$LT$": "<", "$GT$": ">", "$RF$": "&", "$BP$": "*", "$C$": ",", "$u20$": " ", "$u7b$": "{",
                        "$u7d$": "}", "$u5b$": "[", "$u5d$": "]", "..": "::"}  # fmt: skip
_TEMPLATE: Final = re.compile(r"<[^<>]*>")
_LAMBDA: Final = re.compile(r"_ZZ(.{1,400}?)E(?:NK?)?Ul")
_WORDS: Final = re.compile(r"_Z(N[rVK]*)?(St)?(?=[1-9])")
_LENGTH: Final = re.compile(r"[1-9][0-9]{0,2}")
_SPECIAL: Final = re.compile(r"(\w+)::\{(?:\w+ )?(c|d)tor\}")


def readable() -> bool:
    """Whether names of C++ can be read: itanium_demangler is installed."""
    return importlib.util.find_spec("itanium_demangler") is not None


def plain(symbol: str) -> str:
    """The name of a function without what the compiler added to it; a mangled name that cannot be read stays."""
    name = _CLONE.sub("", symbol)
    if name.startswith("_Z") and len(name) <= MAX_MANGLED:
        within = _LAMBDA.match(name)
        if within:
            outer = _demangled("_Z" + within[1])
            name = f"{outer}::(lambda)" if outer else name
        else:
            name = _demangled(name) or _simple(name) or name
    return name[:MAX_NAME]


def _simple(name: str) -> str | None:
    """The qualified name of a mangled one whose types cannot be read: `N` lengths and words `E`, or a single word."""
    found = _WORDS.match(name)
    if found is None:
        return None
    nested, words, at = bool(found[1]), ["std"] if found[2] else [], found.end()
    while (length := _LENGTH.match(name, at)) and (nested or len(words) == bool(found[2])):
        at = length.end() + int(length[0])
        words.append(name[length.end() : at])
    whole = name[at : at + 1] == "E" if nested else len(words) > bool(found[2])
    return "::".join(words) if whole and at <= len(name) else None


def _demangled(name: str) -> str | None:
    """The qualified name without parameters and template arguments: it stands in a sentence."""
    if not readable():
        return None
    import itanium_demangler

    try:
        tree = itanium_demangler.parse(name)
        text = None if tree is None else str(tree.name if tree.kind == "func" else tree)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RecursionError,
            TypeError, ValueError):  # fmt: skip
        return None  # it takes any text for a name that a compiler made
    if not text:
        return None
    if _RUST_HASH.search(text):
        text = _RUST_HASH.sub("", text)
        for escape, meant in _RUST_ESCAPES.items():
            text = text.replace(escape, meant)
        return text
    text = text.removesuffix(" const").replace("_GLOBAL__N_1", "(anonymous namespace)")
    text = _SPECIAL.sub(lambda found: f"{found[1]}::{'~' if found[2] == 'd' else ''}{found[1]}", text)
    if "operator" in text:
        return text
    shorter = _TEMPLATE.sub("", text)
    while shorter != text:
        text, shorter = shorter, _TEMPLATE.sub("", shorter)
    return text
