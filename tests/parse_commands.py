"""Parses command lines by the commands' flags, without running them.

Reads command lines from stdin as a JSON list [[command, [argument, …]], …]. Prints a JSON list with the fault of each
command line, or "" for a command line without fault. Each command line is parsed in a separate process, because
commands that define the same flags cannot be imported together. If a command line has a config, the script also checks
the values in the config. If the name of a flag is in place of the arguments, the script checks whether the command has
this flag.
"""

import contextlib
import io
import json
import os
import runpy
import sys
from collections.abc import Callable

from absl import app, flags

from reversion_jax import config
from reversion_jax.training import dreambooth  # noqa: F401 (imported once, for the configs that import it)
from reversion_jax.weights import own_settings


def parse(command: str, arguments: list[str] | str) -> str:
    """Returns what is wrong with a command line, or "". The calling process must end afterwards."""
    found = []

    def check(main: Callable, flags_parser: Callable[[list[str]], list[str]]) -> None:
        if isinstance(arguments, str):
            found.append("" if arguments in flags.FLAGS else f"{command} has no flag --{arguments}")
            return
        rest = flags_parser(sys.argv)[1:]
        if len(rest) > (command == "inspect"):
            raise ValueError(f"unexpected argument {rest[-1]!r}")
        if "config" in flags.FLAGS:
            given = {key: value for key, value in flags.FLAGS.config.items() if key in config.get_config()}
            values = config.get_config()
            values.update(given)
            config.settle(values, own_settings.read(config.MINIATURE) if values.model == config.MINIATURE else None)

    app.run = check
    sys.argv = [command, *([arguments] if isinstance(arguments, str) else arguments)]  # config flags read sys.argv too
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            runpy.run_module(f"reversion_jax.{command}", run_name="__main__", alter_sys=True)
        except SystemExit:
            return said.getvalue().strip()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return "".join(found)


def in_a_fork(command: str, arguments: list[str] | str) -> str:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            pipe.write(parse(command, arguments))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


if __name__ == "__main__":
    print(json.dumps([in_a_fork(*asked) for asked in json.load(sys.stdin)]))
