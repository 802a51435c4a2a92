"""Values that a sandbox has reported, made from text that a hostile program may have written.

The result holds only builtin values and fractions, so comparing it runs no code of the program.
"""

import json
from fractions import Fraction


class Unequal:
    """A value that equals no other, as any object of a class without an `__eq__` for builtin values."""

    def __init__(self, truth: bool) -> None:
        self.truth = truth

    def __bool__(self) -> bool:
        return self.truth


def deserialise(text: bytes) -> list[object]:
    """The values of a report of `inside.main`.

    Raises:
        ValueError: the text is no such report.
    """
    try:
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError("no list")
        return [_value(value) for value in values]
    except (ValueError, TypeError, OverflowError, RecursionError, ZeroDivisionError) as error:
        raise ValueError("its results cannot be read") from error


def _value(node: object) -> object:
    match node:
        case None | bool() | str():
            return node
        case ["int", str(digits)]:
            return int(digits, 16)
        case ["float", str(digits)]:
            return float.fromhex(digits)
        case ["bytes", str(digits)]:
            return bytes.fromhex(digits)
        case ["object", bool(truth)]:
            return Unequal(truth)
        case ["complex", real, imaginary]:
            return complex(*_floats(real, imaginary))
        case ["ratio", above, below]:
            return Fraction(*_integers(above, below))
        case ["list", *parts]:
            return list(map(_value, parts))
        case ["tuple", *parts]:
            return tuple(map(_value, parts))
        case ["set", *parts]:
            return set(map(_value, parts))
        case ["dict", *items]:
            return {_value(key): _value(value) for _, key, value in items}
    raise ValueError("not a value")


def _floats(*nodes: object) -> list[float]:
    return [value for value in map(_value, nodes) if isinstance(value, float)]


def _integers(*nodes: object) -> list[int]:
    return [value for value in map(_value, nodes) if isinstance(value, int)]
