"""What `mkdocs build` adds: generated tables, pages from outside of `docs/`, and links that lead there."""

import dataclasses
import json
import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.structure.files import File

from transformer2.cli.options import app
from transformer2.config import Run, Training
from transformer2.svf import SVFConfig

ROOT = Path(__file__).parents[1]
BESIDE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "examples.md": "examples/README.md",
    "peft-comparison.md": "examples/peft_comparison/README.md",
}
"""Pages of the site that are files elsewhere in the project."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from outside of `docs/`."""
    for page, file in BESIDE.items():
        files.append(File.generated(config, page, content=(ROOT / file).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fills in generated tables, and leads links to where their targets are in the site.

    What is not in the site is named, with its place in the project.
    """
    source = BESIDE.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    in_site = {f"docs/{file.src_uri}": file.src_uri for file in files} | {file: uri for uri, file in BESIDE.items()}

    def lead(link: re.Match[str]) -> str:
        text, path, anchor = link[1], link[2], link[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target == "README.md":
            target = "docs/index.md"
        if target in in_site:
            here = posixpath.dirname(page.file.src_uri)
            return f"[{text}]({posixpath.relpath(in_site[target], here)}{anchor})"
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/tree/main/{target}{anchor})"
        return (
            f"`{target}`" if text.strip("`") in (target, posixpath.basename(target), path) else f"{text} (`{target}`)"
        )

    return MADE.sub(lambda mark: TABLES[mark[1]](), LINK.sub(lead, markdown))


def commands() -> str:
    """Every command with its options, as `--help` has them."""
    group: Any = typer.main.get_command(app)
    parts = []
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=f"transformer2 {name}")
        usage = " ".join([context.info_name or "", *command.collect_usage_pieces(context)])
        parts.append(f"## {name}\n\n{(command.help or '').strip()}\n\n```text\n{usage}\n```\n")
        rows = [option.get_help_record(context) for option in command.params]
        parts.append(
            _table(("option", ""), [(f"`{row[0]}`".replace("|", "\\|"), _escape(row[1])) for row in rows if row])
        )
    return "\n".join(parts)


def configuration() -> str:
    """Every key of a configuration: its type and range, its default, what it means."""
    schema = Run.model_json_schema()
    parts = {"Run": schema, **schema["$defs"], "Training": Training.model_json_schema()}
    return "\n".join(f"## {name}\n\n{part.get('description', '')}\n\n{_keys(part)}" for name, part in parts.items())


def svf_options() -> str:
    """Every option of `SVFConfig`."""
    shown = [field for field in dataclasses.fields(SVFConfig) if "help" in field.metadata and field.name in OWN]
    rows = [(f"`{field.name}`", f"`{field.default!r}`", _escape(field.metadata["help"])) for field in shown]
    return _table(("option", "default", ""), rows)


OWN = set(SVFConfig.__annotations__)
TABLES: dict[str, Callable[[], str]] = {"commands": commands, "configuration": configuration, "svf": svf_options}
MADE = re.compile(r"<!-- made by mkdocs: (\w+) -->")


def _keys(part: dict[str, Any]) -> str:
    rows = []
    for key, value in part["properties"].items():
        default = json.dumps(value["default"]) if "default" in value else "needed"
        default = default if len(default) <= 40 else "see `config.yaml`" if "default" in value else default
        shown = default if default == "needed" or default.startswith("see") else f"`{default}`"
        rows.append((f"`{key}`", _escape(_type(value)), shown, _escape(value.get("description", ""))))
    return _table(("key", "value", "default", ""), rows)


def _type(value: dict[str, Any]) -> str:
    """What a key of the schema may hold, in a few words."""
    if "$ref" in value:
        return value["$ref"].rpartition("/")[2]
    if "enum" in value or "const" in value:
        return " or ".join(map(str, value.get("enum", [value.get("const")])))
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_type(one) for one in value["anyOf"]))
    kind = value.get("type", "any value")
    if kind == "array":
        return f"list of {_type(value.get('items', {}))}"
    if kind == "object":
        held = value.get("additionalProperties")
        return f"name: {_type(held)}" if isinstance(held, dict) and held else "mapping"
    bounds = [
        f"{sign} {value[key]:g}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in value
    ]
    return {"null": "null"}.get(kind, " ".join([kind, *bounds]))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows] if rows else []
    return "".join(f"| {' | '.join(' '.join(cell.split()) for cell in line)} |\n" for line in lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
