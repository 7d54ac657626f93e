"""``completion``: the script for shell completion of commands, options and IDs."""

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
    """Print the completion script of a shell for commands, options and IDs."""
    completion_class = get_completion_class(shell)
    if completion_class is None:
        msg = f"Invalid shell {shell!r}: expected one that this version of click supports. Upgrade click."
        raise click.ClickException(msg)
    click.echo(
        completion_class(ctx.find_root().command, {}, "otel-progress", "_OTEL_PROGRESS_COMPLETE").source()
    )
