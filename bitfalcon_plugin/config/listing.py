"""The settings as texts to read: a YAML to edit, and a table in Markdown."""

from __future__ import annotations

import json

from .table import groups, live
from .values import expected


def defaults_text() -> str:
    """The live settings as a YAML that `cfg=` takes: one `key: default` a line, what it means beside it."""
    lines = ["# Edit a copy and give it as cfg=<file>; a key that is not there keeps its default."]
    for key, row in live().items():
        if key != "cfg":
            lines.append(f"{key}: {json.dumps(row['default'])}".ljust(28) + f"# {row['help']}: {expected(row)}")
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """The table of the README: Markdown, a row a key, groups as in cfg/default.yaml; ends with a line break."""
    lines = ["| setting | default | what it is | values |", "|---|---|---|---|"]
    for group, rows in groups().items():
        lines.append(f"| **{group}** | | | |")
        for key, row in rows.items():
            if "now" in row:
                cells = [
                    "",
                    f"old name of `{row['now']}`" + (", with the opposite value" if row.get("negate") else ""),
                    "",
                ]
            else:
                effect = f"no effect: {row['unused']}" if "unused" in row else ""
                what = ". ".join(filter(None, (row.get("help", ""), effect)))
                cells = [f"`{json.dumps(row['default'])}`", what, expected(row) if "type" in row else ""]
            lines.append(f"| `{key}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
