"""A YAML document as a tree of plain values with the line of every key.

PyYAML is imported only here and only when a YAML file is read. Anchors and aliases are refused: a short file could
otherwise unfold into an endless one. Not responsible for what the values mean.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holloway.actors.config.problems import KeyPath

if TYPE_CHECKING:
    import yaml


class YamlSyntaxError(Exception):
    """The text is not YAML that we accept. `line` counts from 1."""

    def __init__(self, what: str, line: int | None, fix: str) -> None:
        super().__init__(what, line, fix)
        self.what = what
        self.line = line
        self.fix = fix


@dataclass(slots=True)
class YamlTree:
    """`value` is the document; `lines` its key paths with their lines; `repeated` keys that were written twice."""

    value: object = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    repeated: list[tuple[KeyPath, int]] = field(default_factory=list)


def read_yaml(text: str) -> YamlTree:
    """Reads one document of YAML 1.1, as PyYAML's safe loader understands it.

    Raises ImportError without PyYAML, YamlSyntaxError for text that it refuses, RecursionError on deep nesting.
    """
    import yaml

    tree = YamlTree()
    try:
        loader = yaml.SafeLoader(text)  # refuses characters that YAML does not allow
        root = loader.get_single_node()
        if root is not None:
            tree.value = _build(root, (), loader, tree, set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = error.problem or "not YAML"
        if mark is None:
            raise YamlSyntaxError(what, None, "correct the line") from None
        raise YamlSyntaxError(
            f"syntax error at column {mark.column + 1}: {what}", mark.line + 1, "correct the line"
        ) from None
    except yaml.YAMLError as error:
        raise YamlSyntaxError(
            f"not YAML: {' '.join(str(error).split())}", None, "save it as plain UTF-8 text"
        ) from None
    return tree


def _build(node: yaml.Node, path: KeyPath, loader: yaml.SafeLoader, tree: YamlTree, seen: set[int]) -> object:
    import yaml

    if id(node) in seen:
        line = tree.lines.get(path) or tree.lines.get(path[:-1])
        raise YamlSyntaxError("an alias (*name) is not accepted here", line, "write the value out")
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        return _build_mapping(node, path, loader, tree, seen)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for position, item in enumerate(node.value):
            if id(item) not in seen:  # an alias has the mark of what it stands for
                tree.lines[(*path, position)] = item.start_mark.line + 1
            items.append(_build(item, (*path, position), loader, tree, seen))
        return items
    return _scalar(node, loader)


def _build_mapping(
    node: yaml.MappingNode, path: KeyPath, loader: yaml.SafeLoader, tree: YamlTree, seen: set[int]
) -> dict[str, object]:
    mapping: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _scalar(key_node, loader)
        if not isinstance(key, str):
            raise YamlSyntaxError("a key is not text", line, "put it in quotes")
        member = (*path, key)
        tree.lines.setdefault(member, line)
        if key in mapping:
            tree.repeated.append((member, line))
        mapping[key] = _build(value_node, member, loader, tree, seen)
    return mapping


def _scalar(node: Any, loader: yaml.SafeLoader) -> object:
    """The value of a scalar node; a mapping or list (as a key) gives itself, which is no text."""
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        return node
    try:
        return loader.construct_object(node)
    except (ValueError, LookupError, AttributeError, TypeError):
        # PyYAML's constructors fail in all these ways: an impossible date, `!!int` of nothing, `!!bool maybe`.
        raise YamlSyntaxError("unreadable value", node.start_mark.line + 1, "put it in quotes") from None
