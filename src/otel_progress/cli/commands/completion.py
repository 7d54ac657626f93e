"""``completion``: the script that makes a shell complete commands, options and ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    epilog="""\b
Examples:
  otel-progress completion bash >> ~/.bashrc
  otel-progress completion zsh >> ~/.zshrc
  otel-progress completion fish > ~/.config/fish/completions/otel-progress.fish
"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and ids in a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        msg = f"This version of click has no completion for {shell}."
        raise click.ClickException(msg)
    click.echo(kind(ctx.find_root().command, {}, "otel-progress", "_OTEL_PROGRESS_COMPLETE").source())
