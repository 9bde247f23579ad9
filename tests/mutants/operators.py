"""The changes that mutation testing makes to a line: those of cosmic-ray that rarely just crash, and some that it lacks.

Type annotations, decorators, keywords of classes, texts and docstrings stay as they are, and `strict` of zip(): it only guards.
"""

import ast
import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider
from parso import parse
from parso.tree import search_ancestor

_PAIRS = (
    *("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Lt_GtE", "LtE_Gt", "Gt_LtE", "GtE_Lt"),
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is"),
)
_OF_COSMIC_RAY = (
    *(f"ReplaceComparisonOperator_{pair}" for pair in _PAIRS),
    *(f"ReplaceBinaryOperator_{pair}" for pair in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "BitAnd_BitOr", "BitOr_BitAnd")),
    *("ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Invert"),
    *("AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer", "ZeroIterationForLoop"),
)
# What a function that returns nothing returns, by its annotation; None if no other fits.
_NOTHING = {"list": "[]", "tuple": "()", "dict": "{}", "set": "set()", "frozenset": "frozenset()", "str": '""', "float": "0.0"}
_NOTHING |= {"int": "0", "bool": "False"}


class _Own(Operator):
    """An operator that replaces the code of a node; a subclass says which node, and by what."""

    def replacement(self, node: Any) -> str | None:
        """The code instead of `node`, or None to leave it."""
        raise NotImplementedError

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if self.replacement(node) is not None:
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        new = parse(node.get_first_leaf().prefix + str(self.replacement(node)))
        new.parent = node.parent
        return new

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


class ReturnNothing(_Own):
    """`return found` becomes `return []`, `return ""` or `return None`, as the function's annotation asks."""

    def replacement(self, node: Any) -> str | None:
        function = search_ancestor(node, "funcdef") if node.type == "return_stmt" else None
        if function is None or function.annotation is None:
            return None
        empty = _NOTHING.get(re.split(r"\W", function.annotation.get_code().strip())[0], "None")
        empty = "None" if "None" in function.annotation.get_code() else empty
        return f"return {empty}" if node.get_code(include_prefix=False) != f"return {empty}" else None


class DeleteStatement(_Own):
    """A call, a `yield`, a `raise` or an augmented assignment becomes `pass`."""

    def replacement(self, node: Any) -> str | None:
        if node.parent is None or node.parent.type not in ("simple_stmt", "file_input"):
            return None
        is_augmented = node.type == "expr_stmt" and node.children[1].type == "operator" and node.children[1].value != "="
        is_augmented = is_augmented or (node.type == "expr_stmt" and node.children[1].type == "augassign")
        is_call = node.type in ("atom_expr", "power") and node.children[-1].get_code(include_prefix=False).startswith("(")
        return "pass" if is_augmented or is_call or node.type in ("yield_expr", "raise_stmt") else None


class KeepAll(_Own):
    """`for row in rows if wrong(row)` becomes `for row in rows if True`."""

    def replacement(self, node: Any) -> str | None:
        return "if True" if node.type == "comp_if" else None


class ReplaceIn(_Own):
    """`in` becomes `not in`, and the other way round."""

    def replacement(self, node: Any) -> str | None:
        if node.parent is None or node.parent.type != "comparison":
            return None
        return {"in": "not in", "not in": "in"}.get(" ".join(node.get_code(include_prefix=False).split()))


OPERATORS: dict[str, Operator] = {name: OperatorProvider()[name]() for name in _OF_COSMIC_RAY}
OPERATORS |= {kind.__name__: kind() for kind in (ReturnNothing, DeleteStatement, KeepAll, ReplaceIn)}


@dataclass(frozen=True)
class Mutant:
    """One change of one module: the `occurrence`-th place, from 0, where the operator can change something."""

    module: str
    operator: str
    occurrence: int
    line: int
    source: str

    @cached_property
    def code(self) -> str:
        """The module with the change."""
        return str(mutate_code(self.source, OPERATORS[self.operator], self.occurrence))

    @property
    def was(self) -> str:
        """The lines that change, without indentation."""
        return "\n".join(old.strip() for old, _ in self._changes())

    @property
    def becomes(self) -> str:
        """What these lines change to, without indentation."""
        return "\n".join(new.strip() for _, new in self._changes())

    @property
    def diff(self) -> str:
        before, after = self.source.splitlines(), self.code.splitlines()
        lines = difflib.unified_diff(before, after, self.module, self.module, lineterm="", n=2)
        return "\n".join(lines)

    def is_real(self) -> bool:
        """Whether the change is Python and means something else than the original."""
        try:
            return ast.dump(ast.parse(self.code)) != ast.dump(ast.parse(self.source))
        except (SyntaxError, AttributeError):  # cosmic-ray replaces no exception whose name has a dot
            return False

    def _changes(self) -> list[tuple[str, str]]:
        before, after = self.source.splitlines(), self.code.splitlines()
        blocks = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        return [("\n".join(before[a:b]), "\n".join(after[c:d])) for tag, a, b, c, d in blocks if tag != "equal"]


def mutants_of(root: Path, module: str) -> list[Mutant]:
    """Every mutant of a module, a path below `root`."""
    source = (root / module).read_text()
    left = list(_left_alone(source))
    found, counts = [], dict.fromkeys(OPERATORS, 0)
    for node in ast_nodes(get_ast(source)):
        is_star = node.parent is not None and node.parent.type in ("parameters", "param", "lambdef")  # to cosmic-ray, a product
        for name, operator in OPERATORS.items():
            for start, _ in operator.mutation_positions(node):
                if not (is_star and node.type == "operator") and not any(first <= start < last for first, last in left):
                    found.append(Mutant(module, name, counts[name], start[0], source))
                counts[name] += 1
    return found


def _left_alone(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where type annotations, decorators, keywords of classes and `strict` of zip() start and end, as lines and columns."""
    for node in ast.walk(ast.parse(source)):
        alone = [getattr(node, "annotation", None), getattr(node, "returns", None), *getattr(node, "decorator_list", ())]
        if isinstance(node, ast.ClassDef):
            alone += [keyword.value for keyword in node.keywords]
        if isinstance(node, ast.Call):
            alone += [keyword.value for keyword in node.keywords if keyword.arg == "strict"]
        for expression in alone:
            if isinstance(expression, ast.expr) and expression.end_lineno and expression.end_col_offset:
                yield (expression.lineno, expression.col_offset), (expression.end_lineno, expression.end_col_offset)
