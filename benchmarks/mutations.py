"""What one mistake in a file may look like: the mutants of `mutants.py`, made of the syntax tree."""

import ast
import copy
from dataclasses import dataclass
from typing import Any

OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
# The tests have one kind of device; and `strict` of zip guards what the lines before it have made sure of.
UNMUTATED = ("device", "strict")
# Names of modules and of the class, whose calls have no receiver that could stand for the result.
NO_RECEIVER = {"torch", "F", "np", "nn", "self", "cls", "ctx", "math", "importlib"}
# Arguments that are written out for the reader.
DEFAULTS = {
    ("F.normalize", "dim=-1"),
    ("np.searchsorted", "side='left'"),
    ("similarity.topk", "dim=-1"),
    ("importlib.import_module('torch_geometric.nn').SimpleConv", "aggr='sum'"),
}


def changes_nothing(call: ast.Call, keyword: ast.keyword) -> bool:
    """Whether the call may well do the same without this argument, which is the default written out.

    Of `F.normalize` it is the default for matrices; where there are more axes, `dim=-1` is needed, and the mutant that
    takes the axis before it (-2) stands for this one.
    """
    return (ast.unparse(call.func), ast.unparse(keyword)) in DEFAULTS


@dataclass
class Mutant:
    """One change. `key` names it; `lines` are those whose tests may see it."""

    source: ast.Module
    function: str
    path: list[tuple[str, int | None]]
    new: ast.AST | None
    lines: set[int]
    key: str
    default: tuple[int, Any] | None = None

    def tree(self) -> ast.Module:
        """The whole file with the change."""
        root = copy.deepcopy(self.source)
        if self.new is None:
            return root
        node: Any = root
        for field, number in self.path[:-1]:
            node = getattr(node, field) if number is None else getattr(node, field)[number]
        field, number = self.path[-1]
        if number is None:
            setattr(node, field, self.new)
        else:
            getattr(node, field)[number] = self.new
        return ast.fix_missing_locations(root)


def changes_of(node: ast.AST, argument: bool = False) -> list[ast.AST]:  # noqa: C901
    """What may stand in the place of one node."""

    def with_(**fields: Any) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    match node:
        case ast.BinOp() if type(node.op) in OPERATORS:
            return [with_(op=OPERATORS[type(node.op)]())]
        case ast.AugAssign() if type(node.op) in OPERATORS:
            return [with_(op=OPERATORS[type(node.op)]()), ast.Pass()]
        case ast.Compare():
            ops = [[*node.ops[:i], COMPARISONS[type(op)](), *node.ops[i + 1 :]] for i, op in enumerate(node.ops)]
            return [with_(ops=new) for new in ops]
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            return [with_(op=other), *node.values[: len(node.values) if len(node.values) > 2 else 0]]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
            # The last axis becomes the one before it; of a matrix, axis 1 would be the same.
            return [ast.UnaryOp(ast.USub(), ast.Constant(value + 1))]
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert()):
            return [node.operand]
        case ast.If() | ast.IfExp() | ast.While():
            return [with_(test=ast.UnaryOp(ast.Not(), node.test))]
        case ast.Constant(value=bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(value=int(value)):
            return [ast.Constant(value + 1)]
        case ast.Constant(value=float(value)):
            return [ast.Constant(2 * value or 1.0)]
        case ast.Constant(value=str(value)):
            return [ast.Constant(value + "XX")]
        case ast.Raise() | ast.Expr(value=ast.Call()):
            return [ast.Pass()]
        case ast.Call():
            found: list[ast.AST] = [
                with_(keywords=node.keywords[:i] + node.keywords[i + 1 :])
                for i, k in enumerate(node.keywords)
                if k.arg not in UNMUTATED and not changes_nothing(node, k)
            ]
            receiver = node.func.value if isinstance(node.func, ast.Attribute) else None
            if receiver is not None and not (
                any(
                    isinstance(part, ast.Name) and part.id in NO_RECEIVER
                    for part in [receiver, getattr(receiver, "value", None)]
                )
                or isinstance(receiver, ast.Call)
                and isinstance(receiver.func, ast.Name)
                and receiver.func.id == "super"
            ):
                found.append(receiver)
            return found
        case ast.Name(id=name, ctx=ast.Load()) if argument and "mask" in name:
            return [ast.Constant(None)]
    return []


def mutants_of(text: str) -> list[Mutant]:  # noqa: C901
    """Every mutant of a file, in the order of its lines."""
    tree = ast.parse(text)
    found: list[Mutant] = []
    seen: dict[str, int] = {}

    def add(
        node: ast.AST, new: ast.AST | None, function: str, path: list, lines: set[int], default: Any = None
    ) -> None:
        before = ast.unparse(node).split("\n")[0]
        after = ast.unparse(new).split("\n")[0] if new is not None else repr(default[1])
        key = f"{function}, line {node.lineno}: `{before}` -> `{after}`"  # type: ignore[attr-defined]
        seen[key] = seen.get(key, 0) + 1
        key += f" ({seen[key]})" if seen[key] > 1 else ""
        found.append(Mutant(tree, function, path, new, lines, key, default))

    def inside(node: ast.AST, function: str, path: list, lines: set[int], argument: bool = False) -> None:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) or isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.stmt):
            # Of a compound statement the head: its body may never be entered.
            lines = {node.lineno} if hasattr(node, "body") else set(range(node.lineno, node.end_lineno + 1))
            if isinstance(node, ast.If | ast.While):
                lines = set(range(node.lineno, node.test.end_lineno + 1))
        for new in changes_of(node, argument):
            add(node, new, function, path, lines)
        if isinstance(node, ast.keyword) and node.arg in UNMUTATED:
            return
        if isinstance(node, ast.Raise) or isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
            return
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            several = isinstance(value, list)
            for number, child in enumerate(value if several else [value]):
                if isinstance(child, ast.AST):
                    passed = isinstance(node, ast.keyword) or isinstance(node, ast.Call) and field == "args"
                    inside(child, function, [*path, (field, number if several else None)], lines, passed)

    def outside(node: ast.AST, prefix: str, path: list) -> None:
        for number, child in enumerate(node.body):  # type: ignore[attr-defined]
            place = [*path, ("body", number)]
            if isinstance(child, ast.ClassDef):
                outside(child, f"{prefix}{child.name}.", place)
            elif isinstance(child, ast.FunctionDef):
                name = prefix + child.name
                body = {line for part in child.body for line in range(part.lineno, part.end_lineno + 1)}
                for position, default in enumerate(child.args.defaults):
                    for new in changes_of(default) if isinstance(default, ast.Constant) else []:
                        add(default, None, name, place, body, (position, new.value))  # type: ignore[attr-defined]
                for position, part in enumerate(child.body):
                    inside(part, name, [*place, ("body", position)], set())

    outside(tree, "", [])
    return found
