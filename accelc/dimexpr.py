"""Exact integer expressions over dimension symbols.

A number is an int, or a `Poly`: a sum of products of atoms with integer coefficients. An atom is a `Symbol` or an
opaque `Call` (floor division, remainder, minimum, maximum). Two numbers are surely equal when `==` says so; otherwise
nothing is known. Every symbol is a dimension: an integer that is 0 or more.

Every function takes and returns None for a number nobody knows; numbers that grow beyond reason become None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_MAX_TERMS = 24
_MAX_DEPTH = 4
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")


@dataclass(frozen=True)
class Symbol:
    """The size of a dimension. invented: it stands for an unknown dimension of one value, unnamed in the model."""

    name: str
    invented: bool = False
    depth = 0

    @cached_property
    def key(self) -> str:
        """What atoms are sorted by."""
        return f"{int(self.invented)}{self.name}"


@dataclass(frozen=True)
class Call:
    """floordiv(a, b), mod(a, b) with floor semantics, min(...) or max(...) of numbers."""

    name: str
    args: tuple[Known, ...]

    @cached_property
    def depth(self) -> int:
        return 1 + max(arg.depth if isinstance(arg, Poly) else 0 for arg in self.args)

    @cached_property
    def key(self) -> str:
        """What atoms are sorted by."""
        return f"2{self.name}({','.join(_key(arg) for arg in self.args)})"


Atom = Symbol | Call
Monomial = tuple[Atom, ...]


@dataclass(frozen=True)
class Poly:
    """A sum of coefficient * product of atoms, sorted; never a plain int. The empty product is the constant term."""

    terms: tuple[tuple[Monomial, int], ...]

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def depth(self) -> int:
        """How deep calls are nested."""
        return max((atom.depth for monomial, _ in self.terms for atom in monomial), default=0)

    @cached_property
    def constant(self) -> int:
        """The constant term."""
        return next((coefficient for monomial, coefficient in self.terms if not monomial), 0)

    @cached_property
    def text(self) -> str | None:
        """How it is written into a model, or None (see the function of this name)."""
        if self.depth or any(each.invented for each in self.symbols):
            return None
        only = _single_atom(self)
        if isinstance(only, Symbol):
            return only.name
        if not all(_IDENTIFIER.match(each.name) for each in self.symbols):
            return None
        shown = ""
        for monomial, coefficient in reversed(self.terms):
            names = [atom.name for atom in monomial]
            size = [str(abs(coefficient))] if abs(coefficient) != 1 or not names else []
            sign = (" - " if coefficient < 0 else " + ") if shown else ("-" if coefficient < 0 else "")
            shown += sign + "*".join(size + names)
        return shown

    @cached_property
    def symbols(self) -> frozenset[Symbol]:
        """Every symbol in it, inside calls too."""
        found: set[Symbol] = set()
        for monomial, _ in self.terms:
            for atom in monomial:
                if isinstance(atom, Symbol):
                    found.add(atom)
                else:
                    found.update(*(arg.symbols for arg in atom.args if isinstance(arg, Poly)))
        return frozenset(found)


Known = int | Poly
Number = int | Poly | None
"""An int, an expression, or unknown."""


def symbol(name: str, *, invented: bool = False) -> Poly:
    """The expression that is one symbol."""
    return _atom(Symbol(name, invented))


def single(number: Number) -> Symbol | None:
    """The symbol that a number is, or None."""
    atom = _single_atom(number)
    return atom if isinstance(atom, Symbol) else None


def _single_atom(number: Number) -> Atom | None:
    if isinstance(number, Poly) and len(number.terms) == 1:
        monomial, coefficient = number.terms[0]
        if coefficient == 1 and len(monomial) == 1:
            return monomial[0]
    return None


def _atom(atom: Atom) -> Poly:
    return Poly((((atom,), 1),))


def _key(number: Known) -> str:
    if isinstance(number, int):
        return str(number)
    return "+".join(f"{c}*{'*'.join(atom.key for atom in monomial)}" for monomial, c in number.terms)


def _terms(number: Known) -> dict[Monomial, int]:
    if isinstance(number, int):
        return {(): number} if number else {}
    return dict(number.terms)


def _poly(terms: Mapping[Monomial, int]) -> Number:
    kept = [(monomial, coefficient) for monomial, coefficient in terms.items() if coefficient]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    if len(kept) > _MAX_TERMS or any(len(monomial) > _MAX_TERMS for monomial, _ in kept):
        return None
    kept.sort(key=lambda term: (len(term[0]), [atom.key for atom in term[0]]))
    return Poly(tuple(kept))


# --- arithmetic ------------------------------------------------------------------------------------------------------


def add(a: Number, b: Number) -> Number:
    """a + b"""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    terms = _terms(a)
    for monomial, coefficient in _terms(b).items():
        terms[monomial] = terms.get(monomial, 0) + coefficient
    return _poly(terms)


def neg(a: Number) -> Number:
    """-a"""
    return mul(a, -1)


def sub(a: Number, b: Number) -> Number:
    """a - b"""
    return add(a, neg(b))


def mul(a: Number, b: Number) -> Number:
    """a * b"""
    if a is None or b is None:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 1:
        return b
    if b == 1:
        return a
    left, right = _terms(a), _terms(b)
    if len(left) * len(right) > 4 * _MAX_TERMS:
        return None
    terms: dict[Monomial, int] = {}
    for m, c in left.items():
        for n, d in right.items():
            product = tuple(sorted(m + n, key=lambda atom: atom.key)) if m and n else m + n
            terms[product] = terms.get(product, 0) + c * d
    return _poly(terms)


def product(numbers: Iterable[Number]) -> Number:
    """The product of numbers; 1 for none."""
    result: Number = 1
    for number in numbers:
        result = mul(result, number)
    return result


def quotient(a: Number, b: Number) -> Number:
    """q with a == q * b as polynomials, or None. Where b may be 0 the caller must know that it is not."""
    if a is None or b is None or b == 0:
        return None
    if a == b:
        return 1
    if isinstance(b, int):
        terms = _terms(a)
        if any(coefficient % b for coefficient in terms.values()):
            return None
        return _poly({monomial: coefficient // b for monomial, coefficient in terms.items()})
    if len(b.terms) == 1:
        return _monomial_quotient(a, *b.terms[0])
    lead = max(b.terms, key=lambda term: (len(term[0]), [atom.key for atom in term[0]]))
    rest: Number = a
    found: Number = 0
    for _ in range(_MAX_TERMS):  # long division by the leading term
        if rest == 0:
            return found
        if not isinstance(rest, Poly):
            return None
        head = max(rest.terms, key=lambda term: (len(term[0]), [atom.key for atom in term[0]]))
        step = _monomial_quotient(_poly({head[0]: head[1]}), *lead)
        if step is None:
            return None
        found, rest = add(found, step), sub(rest, mul(step, b))
    return None


def _monomial_quotient(a: Number, divisor: Monomial, coefficient: int) -> Number:
    if a is None:
        return None
    result: dict[Monomial, int] = {}
    for monomial, c in _terms(a).items():
        left = list(monomial)
        for atom in divisor:
            if atom not in left:
                return None
            left.remove(atom)
        if c % coefficient:
            return None
        result[tuple(left)] = c // coefficient
    return _poly(result)


def _call(name: str, *args: Known) -> Number:
    call = Call(name, args)
    return None if call.depth > _MAX_DEPTH else _atom(call)


def floordiv(a: Number, b: Number) -> Number:
    """a // b rounded down, where b is not 0. Known where a is 0 or more and b is, or where b is a positive int."""
    if a is None or b is None or b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    exact = quotient(a, b)
    if exact is not None:
        return exact
    if not isinstance(b, int):
        return _call("floordiv", a, b) if nonnegative(a) and nonnegative(b) else None
    if b < 0:
        return None
    whole, rest = _split(a, b)
    inner = _single_atom(rest)
    if isinstance(inner, Call) and inner.name == "floordiv" and isinstance(inner.args[1], int):
        return add(whole, floordiv(inner.args[0], inner.args[1] * b))
    return add(whole, rest // b if isinstance(rest, int) else None if rest is None else _call("floordiv", rest, b))


def ceildiv(a: Number, b: int) -> Number:
    """a / b rounded up, for a positive int b."""
    return floordiv(add(a, b - 1), b)


def mod(a: Number, b: Number) -> Number:
    """a modulo b with the sign of b, where b is not 0. Known where both are 0 or more, or where b is a positive int."""
    if a is None or b is None or b == 0:
        return None
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if quotient(a, b) is not None:
        return 0
    if not isinstance(b, int):
        return _call("mod", a, b) if nonnegative(a) and nonnegative(b) else None
    if b < 0:
        return None
    rest = _split(a, b)[1]
    return rest % b if isinstance(rest, int) else None if rest is None else _call("mod", rest, b)


def _split(a: Known, b: int) -> tuple[Number, Number]:
    """(whole, rest) with a == whole * b + rest and every coefficient of rest in 0..b-1."""
    terms = _terms(a)
    return _poly({m: c // b for m, c in terms.items()}), _poly({m: c % b for m, c in terms.items()})


def minimum(*numbers: Number) -> Number:
    """The smallest of numbers."""
    return _extreme("min", numbers)


def maximum(*numbers: Number) -> Number:
    """The largest of numbers."""
    return _extreme("max", numbers)


def _extreme(name: str, numbers: Iterable[Number]) -> Number:
    flat: list[Known] = []
    for number in numbers:
        if number is None:
            return None
        atom = _single_atom(number)
        flat.extend(atom.args if isinstance(atom, Call) and atom.name == name else [number])
    kept: list[Known] = []
    for number in flat:
        if any(_covers(name, other, number) for other in kept):
            continue
        kept = [other for other in kept if not _covers(name, number, other)]
        kept.append(number)
    if len(kept) == 1:
        return kept[0]
    return _call(name, *sorted(kept, key=_key)) if len(kept) <= _MAX_DEPTH else None


def _covers(name: str, strong: Known, weak: Known) -> bool:
    """Whether `weak` adds nothing to an extreme that already has `strong`."""
    return at_least(weak, strong) if name == "min" else at_least(strong, weak)


# --- what is surely true ---------------------------------------------------------------------------------------------


def nonnegative(number: Number) -> bool:
    """Whether a number is surely 0 or more."""
    if isinstance(number, Poly):
        return all(c > 0 and all(_atom_nonnegative(atom) for atom in monomial) for monomial, c in number.terms)
    return number is not None and number >= 0


def _atom_nonnegative(atom: Atom) -> bool:
    if isinstance(atom, Symbol):
        return True
    if atom.name == "mod":
        return nonnegative(atom.args[1])
    if atom.name == "max":
        return any(nonnegative(arg) for arg in atom.args)
    return all(nonnegative(arg) for arg in atom.args)


def positive(number: Number) -> bool:
    """Whether a number is surely 1 or more."""
    return at_least(number, 1)


def at_least(a: Number, b: Number) -> bool:
    """Whether a >= b surely."""
    if a is None or b is None:
        return False
    if isinstance(a, int) and isinstance(b, int):
        return a >= b
    if nonnegative(sub(a, b)):
        return True
    low, high = _single_atom(b), _single_atom(a)
    if isinstance(low, Call) and low.name == "min" and any(at_least(a, arg) for arg in low.args):
        return True
    if isinstance(high, Call) and high.name == "max" and any(at_least(arg, b) for arg in high.args):
        return True
    if isinstance(high, Call) and high.name == "min":
        return all(at_least(arg, b) for arg in high.args)
    return isinstance(low, Call) and low.name == "max" and all(at_least(a, arg) for arg in low.args)


def equal(a: Number, b: Number) -> bool | None:
    """Whether two numbers are surely equal, surely different, or (None) neither."""
    if a is None or b is None:
        return None
    if a == b:
        return True
    if isinstance(a, int) and isinstance(b, int):
        return False
    difference = sub(a, b)
    return False if at_least(difference, 1) or at_least(neg(difference), 1) else None


def zero_with(a: Number, b: Number) -> bool:
    """Whether b is surely 0 whenever a is."""
    if a is None or b is None:
        return False
    if positive(a) or b == 0 or a == b or quotient(b, a) is not None:
        return True
    scale = quotient(a, b)
    return isinstance(scale, int) and scale != 0


def minimum_args(number: Number) -> tuple[Known, ...]:
    """The numbers that a number is the minimum of; empty where it is none."""
    atom = _single_atom(number)
    return atom.args if isinstance(atom, Call) and atom.name == "min" else ()


# --- in and out ------------------------------------------------------------------------------------------------------


def text(number: Number) -> str | None:
    """How a dimension is written into a model: a symbol, or a polynomial of symbols with plain names; None otherwise.

    Invented symbols are never written.
    """
    return number.text if isinstance(number, Poly) else None


def evaluate(number: Known, sizes: Mapping[Symbol, int]) -> int:
    """The value of a number for given sizes of its symbols."""
    if isinstance(number, int):
        return number
    return sum(c * math.prod(_value(atom, sizes) for atom in monomial) for monomial, c in number.terms)


_FUNCTIONS: dict[str, Any] = {"floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b, "min": min, "max": max}


def _value(atom: Atom, sizes: Mapping[Symbol, int]) -> int:
    if isinstance(atom, Symbol):
        return sizes[atom]
    return int(_FUNCTIONS[atom.name](*(evaluate(arg, sizes) for arg in atom.args)))
