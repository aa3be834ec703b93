"""How commands fail: one line that says what, where and how to mend it."""

import functools
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, logging


def one_line(main: Callable) -> Callable:
    """Wraps a command's main: bad input (ValueError, OSError) and diverged training end it without a stack trace."""

    @functools.wraps(main)
    def wrapped(argv):
        logging.set_verbosity(logging.WARNING)  # Orbax and JAX would tell of every file and compilation
        try:
            return main(argv)
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
    """absl's parser, for `app.run`; a setting that the config does not have ends in one line as well."""
    for word, following in itertools.pairwise([*argv, ""]):
        path = following if word == "--config" else word.partition("--config=")[2]
        path = path.split(":")[0]  # what follows is the config's own argument
        if path and not Path(path).is_file():
            _fail(f"no config file at {path!r}: give one by --config, such as configs/hug.py")
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        name = re.sub(r"[^\w.]", "", str(error).split(" ")[0].replace("KeyError", ""))
        _fail(f"the config has no setting {name!r}: reversion_jax/config.py lists them")


def _fail(message: object) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
