"""How commands fail: one line that says what, where and how to mend it."""

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from absl import app, logging


def one_line(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's main: bad input (ValueError, OSError) and diverged training end it without a stack trace."""

    @functools.wraps(main)
    def wrapped(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax and JAX would tell of every file and compilation
        try:
            main(argv)
        except (ValueError, OSError, FloatingPointError) as error:
            _fail(error)
        except RuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):  # JAX's and XLA's word for it
                raise
            _fail(
                "not enough memory on the device: try bfloat16 (--config.precision, --precision), a smaller batch_size "
                "or, in training, --config.remat=True"
            )
        except KeyboardInterrupt as stop:
            print(stop if stop.args else "stopped", file=sys.stderr)
            sys.exit(130)

    return wrapped


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, for `app.run`. A config may be one that comes with the package.

    A config file that is not there, and a setting that the config does not have, end in one line as well.
    """
    argv = list(argv)
    for i, word in enumerate(argv):
        if word == "--config" and i + 1 < len(argv):
            argv[i + 1] = _find_config(argv[i + 1])
        elif word.startswith("--config="):
            argv[i] = f"--config={_find_config(word.removeprefix('--config='))}"
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        name = re.sub(r"[^\w.]", "", str(error).split(" ")[0].replace("KeyError", ""))
        _fail(f"the config has no setting {name!r}: reversion_jax/config.py lists them")


def _find_config(given: str) -> str:
    """The config file, a path of the user's first; else one of the package's, by the same path."""
    path, colon, argument = given.partition(":")  # what follows is the config's own argument
    package = Path(__file__).parents[1]
    # An installed package has them inside, a checkout beside.
    for place in (Path(), package, package.parent):
        if path and (place / path).is_file():
            return f"{place / path}{colon}{argument}"
    _fail(f"no config file at {path!r}: give one by --config, such as configs/hug.py")


def _fail(message: object) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
