"""The settings as text: a YAML to edit, and a table in Markdown."""

from __future__ import annotations

import json

from .default_table import active_settings, groups
from .values import expected


def defaults_text() -> str:
    """Return the active settings as a YAML that `cfg=` takes: a line `key: default  # meaning` for each."""
    lines = ["# Edit a copy and give it as cfg=<file>; a key that is not there keeps its default."]
    for key, row in active_settings().items():
        if key != "cfg":
            lines.append(f"{key}: {json.dumps(row['default'])}".ljust(28) + f"# {row['help']}: {expected(row)}")
    return "\n".join(lines) + "\n"


def settings_table() -> str:
    """Return the table of cfg/README.md in Markdown: a row for each key, in the groups of cfg/default.yaml."""
    lines = ["| setting | default | what it is | values |", "|---|---|---|---|"]
    for group, rows in groups().items():
        lines.append(f"| **{group}** | | | |")
        for key, row in rows.items():
            if "now" in row:
                opposite = ", with the opposite value" if row.get("negate") else ""
                cells = ["", f"old name of `{row['now']}`{opposite}", ""]
            else:
                effect = f"no effect: {row['unused']}" if "unused" in row else ""
                description = ". ".join(filter(None, (row.get("help", ""), effect)))
                cells = [f"`{json.dumps(row['default'])}`", description, expected(row) if "type" in row else ""]
            lines.append(f"| `{key}` | " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
