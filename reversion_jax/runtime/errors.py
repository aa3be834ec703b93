"""Makes commands fail and warn with one line, which says what is wrong, where, and how to mend it."""

import functools
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from absl import flags, logging

from reversion_jax.config import no_setting
from reversion_jax.runtime import compilation


class Caution(UserWarning):
    """A warning that the result may not be what the user wanted. Commands print it as one line."""


def warn(message: str) -> None:
    """Warns the user. Each message is shown only once."""
    warnings.warn(message, Caution, stacklevel=2)


def one_line(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main function, so that expected errors end the command with one line and no stack trace.

    Expected errors are bad input (ValueError, OSError), training that diverges (FloatingPointError), too little memory
    on the device, and Ctrl-C.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # otherwise Orbax and JAX log every file and every compilation
        warnings.showwarning = functools.partial(_show, warnings.showwarning)
        try:
            main(argv)
        except (ValueError, OSError, FloatingPointError) as error:
            _fail(error)
        except RuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):  # how JAX and XLA report that memory ran out
                raise
            _fail(
                "not enough memory on the device: in training try --config.samples_at_once=1, then "
                "--config.remat=True; in drawing try --batch_size=1; in training and "
                "drawing, use bfloat16 or float16, not float32"
            )
        except KeyboardInterrupt as stop:
            print(stop if stop.args else "stopped", file=sys.stderr)
            _leave(130)

    return wrapped


def parse_flags(argv: list[str]) -> list[str]:
    """Parses flags for `app.run` as absl does, but with a --help that fits on a screen and errors of one line.

    --config may name a file that comes with the package. For a mistyped setting, the error suggests a similar setting.
    """
    # A shell expands ~ in "--workdir ~/runs", but not in "--workdir=~/runs".
    argv = [re.sub(r"=~(?=/|$)", lambda _: f"={Path.home()}", w, count=1) if w[:1] == "-" else w for w in argv]
    if {"--help", "-h", "--helpshort", "-help"} & set(argv[1:]):
        _help(argv[0])
    for i, word in enumerate(argv):
        if word == "--config" and i + 1 < len(argv):
            argv[i + 1] = _find_config(argv[i + 1])
        elif word.startswith("--config="):
            argv[i] = f"--config={_find_config(word.removeprefix('--config='))}"
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        if "Error whilst parsing config file" in str(error):
            _fail(_fault_of_config(str(error)))
        needed = re.findall(r"Flag (--\w+) must have a value other than None", str(error))
        _fail(f"give {' and '.join(needed)}; --help says more" if needed else " ".join(str(error).split()))
    except (AttributeError, KeyError) as error:
        given = [word.partition("=")[0].removeprefix("--config.") for word in argv if word.startswith("--config.")]
        names = [name for name in given if re.search(rf"\b{re.escape(name.split('.')[-1])}", str(error))]
        _fail(no_setting(names[0]) if names else f"the config cannot be read: {error}")
    except (ValueError, TypeError, OSError, SyntaxError) as error:
        _fail(error)
    except Exception as error:  # the user's config file is code, which may raise any error
        last = traceback.extract_tb(error.__traceback__)[-1]
        _fail(f"the config cannot be read: {type(error).__name__}: {error} ({last.filename}, line {last.lineno})")


def _fault_of_config(trace: str) -> str:
    """Returns what is wrong with a config file, from the stack trace that ml_collections gives."""
    what = trace.strip().splitlines()[-1].strip()
    places = re.findall(r'File "([^"]+)", line (\d+)', trace)
    if what.startswith("ValueError: ") or not places:  # the config file wrote this message for its user
        return what.removeprefix("ValueError: ")
    file, line = places[-1]
    return f"the config cannot be read: {what} ({file}, line {line})"


def _help(command: str) -> NoReturn:
    """Prints what a command does, and its flags, one per line."""
    print(f"{(sys.modules['__main__'].__doc__ or '').strip()}\n")
    own = {flag.name: flag for flag in flags.FLAGS.get_key_flags_for_module(command)}
    for name, flag in sorted(own.items()):
        default = "" if flag.default is None or flag.default is False else f" [{flag.default}]"
        text = f"{' '.join((flag.help or '').split()).partition('; repeat this option')[0]}{default}"
        print(textwrap.fill(text, 118, initial_indent=f"  --{name:15} ", subsequent_indent=" " * 20))
    sys.exit(0)


def _find_config(given: str) -> str:
    """Returns the path of a config file: the user's file, else the package's file with the same path."""
    path, colon, argument = given.partition(":")  # the text after the colon is an argument for the config file
    package = Path(__file__).parents[1]
    # An installed package contains the config files; in a checkout, the config files are beside the package.
    for place in (Path(), package, package.parent):
        if path and (place / path).is_file():
            return f"{place / path}{colon}{argument}"
    _fail(f"no config file at {path!r}: give one with --config, such as configs/hug.py")


def _show(others: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Prints a Caution as one line, and passes other warnings to `others`, the function that it replaces."""
    if issubclass(category, Caution):
        print(f"warning: {message}", file=sys.stderr, flush=True)
    else:
        others(message, category, *where)


def _fail(message: object) -> NoReturn:
    # The message may quote a user's file, and the quoted text may contain line breaks.
    print("error: " + re.sub(r"\s*\n\s*", " ", str(message)), file=sys.stderr)
    _leave(2)


def _leave(status: int) -> NoReturn:
    """Ends the process, without waiting for a compilation in the background."""
    if compilation.is_under_way():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
