"""What `mkdocs build` adds: the reference of the commands, pages from outside of `docs/`, links that lead there."""

import posixpath
import re
from pathlib import Path
from typing import Any

import click
import typer
from mkdocs.structure.files import File

from transformer2.cli.options import app

ROOT = Path(__file__).parents[1]
BESIDE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "peft-comparison.md": "examples/peft_comparison/README.md",
}
"""Pages of the site that are files elsewhere in the project."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!\w+:|#)([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    texts = {page: (ROOT / file).read_text(encoding="utf-8") for page, file in BESIDE.items()}
    for page, text in {**texts, "reference/commands.md": commands()}.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leads links to where their targets are in the site; what is not in it is named, with its place in the project."""
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

    return LINK.sub(lead, markdown)


def commands() -> str:
    """Every command with its options, as `--help` has them."""
    group: Any = typer.main.get_command(app)
    parts = ["# Commands\n\n`transformer2 <command>`, or `python -m transformer2 <command>`; `--help` says the same.\n"]
    for name, command in sorted(group.commands.items()):
        context = click.Context(command, info_name=f"transformer2 {name}")
        usage = " ".join([context.info_name or "", *command.collect_usage_pieces(context)])
        parts.append(f"## {name}\n\n{(command.help or '').strip()}\n\n```text\n{usage}\n```\n")
        rows = [option.get_help_record(context) for option in command.params]
        if rows := [row for row in rows if row]:
            lines = [f"| `{_cell(what)}` | {_cell(help)} |" for what, help in rows]
            parts.append("| option | |\n| --- | --- |\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
