"""Help that fits a screen: where options are many, those of panels are named, and `--help-all` explains them."""

from __future__ import annotations

import copy
import inspect
import re
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperOption

MANY = 12
"""Options from which on `--help` only names those that stand in a panel."""
FULL = "--help-all"


def flowing(text: str) -> str:
    """Help whose paragraphs fill any width. Examples, indented, stay as they are and have a colour."""
    parts = inspect.cleandoc(text).split("\n\n")
    whole = [part if re.search(r"^ ", part, re.MULTILINE) else " ".join(part.split()) for part in parts]
    return re.sub(r"^ .*", lambda line: f"[cyan]{escape(line[0])}[/cyan]", "\n\n".join(whole), flags=re.MULTILINE)


class FoldedCommand(TyperCommand):
    """A command with `--help-all`, if it has many options."""

    _all: Any = None

    def get_params(self, ctx: Any) -> list[Any]:
        """All parameters, those that explain others included."""
        found = super().get_params(ctx)
        if not self.folded():
            return found
        if self._all is None:  # one object, as for --help
            self._all = copy.copy(found[-1])
            self._all.name, self._all.opts = "help_all", [FULL]
            self._all.help, self._all.callback = "Explain every option and exit.", self._explain
        return [*found, self._all]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help, as long as `--help` is to be."""
        panels = self.folded()
        if not panels:
            super().format_help(ctx, formatter)
            return
        short = copy.copy(self)
        named = [each for inside in panels.values() for each in inside]
        short.params = [each for each in [*self.params, self.get_params(ctx)[-1]] if each not in named]
        lines = [f"[bold]{name}[/bold]  {' '.join(each.opts[0] for each in inside)}" for name, inside in panels.items()]
        short.epilog = "\n".join([f"[dim]{FULL} explains these, too:[/dim]", *lines])
        TyperCommand.format_help(short, ctx, formatter)

    def folded(self) -> dict[str, list[TyperOption]]:
        """The options that `--help` only names, by their panels."""
        shown = [each for each in self.params if isinstance(each, TyperOption) and not each.hidden]
        panels = dict[str, list[TyperOption]]()
        if len(shown) >= MANY:
            for each in shown:
                if each.rich_help_panel:
                    panels.setdefault(each.rich_help_panel, []).append(each)
        return panels

    def _explain(self, ctx: Any, param: Any, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            super().format_help(ctx, ctx.make_formatter())
            raise typer.Exit
