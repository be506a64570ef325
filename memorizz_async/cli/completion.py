"""`memorizz-async completion`."""

from __future__ import annotations

import click

from memorizz_async.cli import options
from memorizz_async.cli.output import print_json

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog=f"""\
\b
To complete commands, options and memory types, run once:
  bash  memorizz-async completion bash >> ~/.bashrc
  zsh   memorizz-async completion zsh >> ~/.zshrc
  fish  memorizz-async completion fish \\
          > ~/.config/fish/completions/memorizz-async.fish

{options.EXIT_CODES}"""
)
@click.argument("shell", type=click.Choice(_SHELLS))
@options.output_options
@click.pass_context
def command(context: click.Context, shell: str, as_json: bool) -> None:
    """Print the completion script of SHELL."""
    from click.shell_completion import get_completion_class

    from memorizz_async.cli.app import COMPLETE_VARIABLE, PROGRAM

    shell_class = get_completion_class(shell)
    assert shell_class is not None
    script = shell_class(context.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE).source()
    if as_json:
        print_json({"shell": shell, "script": script})
    else:
        print(script)
