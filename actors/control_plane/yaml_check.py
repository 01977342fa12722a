"""Whether a text is YAML. Only its syntax is looked at: nothing is built, so nothing can unfold. Not responsible for what it means."""

from __future__ import annotations

from holloway.protocols.errors import LocalError


def require_yaml(text: bytes) -> None:
    """Raises LocalError that says where the text is no YAML, or that this machine cannot tell."""
    try:
        import yaml
    except ImportError:
        why = "PyYAML is not installed on this machine"
        raise LocalError("YAML cannot be checked", why, "pip install 'holloway[yaml]'") from None
    fix = "mend it and try again"
    try:
        yaml.SafeLoader(text.decode("utf-8")).get_single_node()
    except UnicodeDecodeError:
        raise LocalError("it is not YAML", "it is not UTF-8", fix) from None
    except RecursionError:
        raise LocalError("it is not YAML that is taken", "it is nested too deep", fix) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise LocalError("it is not YAML", f"{where}{error.problem or 'a mistake'}", fix) from None
    except yaml.YAMLError as error:
        raise LocalError("it is not YAML", " ".join(str(error).split()), fix) from None
