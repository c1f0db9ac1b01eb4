"""Parse az commands with the real az, without running them: a JSON list of argument lists on standard input.

Prints a line for each command that az refuses.
"""

import contextlib
import io
import json
import sys

from azure.cli.core import get_default_cli


def refused(cli, words):
    """Return what the parser of az says against a command, or None."""
    invoker = cli.invocation_cls(cli_ctx=cli, commands_loader_cls=cli.commands_loader_cls, parser_cls=cli.parser_cls, help_cls=cli.help_cls)
    cli.invocation = invoker
    loader = invoker.commands_loader
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            loader.load_command_table(words)
            command = invoker._rudimentary_get_command(words)
            if command not in loader.command_table:
                return f"no command {command!r}"
            loader.command_table = {command: loader.command_table[command]}
            loader.command_name = invoker.data["command_string"] = command
            loader.load_arguments(command)
            invoker.parser.load_command_table(loader)
            invoker.parser.parse_args(words)
        except SystemExit:
            return said.getvalue().strip() or "refused"
        except Exception as fault:  # az reports a wrong option by an exception of its own
            if "No such file" in str(fault):  # a file of the page's reader
                return None
            return f"{type(fault).__name__}: {fault}"
    return None


def main():
    cli = get_default_cli()
    for words in json.load(sys.stdin):
        # @file stands for the content of a file, which the doubles have not made: an empty object is as good.
        fault = refused(cli, ["{}" if word.startswith("@") else word for word in words])
        if fault:
            print(f"az {' '.join(words)}: {fault.splitlines()[0]}")


if __name__ == "__main__":
    main()
