"""The documents that are made from the code: `./dev schema` writes them, a test keeps them current.

docs/schema/link.schema.json, api.schema.json, asyncapi.json, fleetgate.d.ts    from shared_types
docs/settings.md                                                                the part between the markers
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from shared_types import schema

DOCS = Path(__file__).parent


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def settings_table(package: str) -> str:
    """One row for each setting, from what the package's settings.py says of itself."""
    lines = ["| environment | flag | in the file | default | what it does |", "|---|---|---|---|---|"]
    for row in import_module(f"{package}.settings").describe():
        flag = "" if getattr(row, "secret", False) else f"`{row.flag}`"
        key = f"`{row.key}`" if row.key else ""  # the home says where the file is, and so is not in it
        lines.append(f"| `{row.env}` | {flag} | {key} | {_cell(row.default)} | {_cell(row.doc)} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def between(text: str, name: str, made: str) -> str:
    """The document with its generated part made again."""
    begin, end = f"<!-- made: {name} -->", f"<!-- end: {name} -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    assert found, f"no {begin}"
    assert found_end, f"no {end}"
    return f"{before}{begin}\n{made}\n{end}{after}"


def files() -> dict[Path, str]:
    """Every generated document as it should be."""
    settings = (DOCS / "settings.md").read_text()
    for package in ("manager", "gateway"):
        settings = between(settings, package, settings_table(package))
    return {
        DOCS / "schema" / "link.schema.json": _json(schema.link_schema()),
        DOCS / "schema" / "api.schema.json": _json(schema.api_schema()),
        DOCS / "schema" / "asyncapi.json": _json(schema.asyncapi()),
        DOCS / "schema" / "fleetgate.d.ts": schema.typescript(),
        DOCS / "settings.md": settings,
    }


def main() -> None:
    for path, text in files().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
