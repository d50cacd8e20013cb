"""Where a benchmark keeps its figures: a table to read, and the same numbers as data."""

import json
from pathlib import Path


def write(out: Path, where: str, results: list, table: str) -> None:
    """out.json and out.md. A crash leaves each file either old or new, never half written."""
    data = json.dumps({"where": where, "results": results}, indent=1) + "\n"
    out.parent.mkdir(parents=True, exist_ok=True)
    for suffix, text in ((".json", data), (".md", table)):
        path = out.with_name(out.name + suffix)
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        part.replace(path)
