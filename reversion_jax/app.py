"""Serves the app: a page in the browser where you can learn a relation, draw with the learned word, and inspect it.

    python -m reversion_jax.app

The app works offline with the miniature, a small model that comes with the package. The app stores runs in --folder,
and the page cannot reach files outside that folder. The app needs gradio: pip install 'reversion_jax[app]'. See
docs/app.md.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: use --folder, --host and --port")
    from reversion_jax.runtime.compilation import keep_compiled

    try:
        from reversion_jax.training.page import serve  # imported here so that --help does not load JAX
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(
            "the app needs gradio: pip install 'reversion_jax[app]' (in a checkout: pip install -e '.[app]')"
        ) from error

    keep_compiled()
    serve.serve(_FOLDER.value, _HOST.value, _PORT.value)


if __name__ == "__main__":
    from absl import app, flags

    _FOLDER = flags.DEFINE_string("folder", "runs", "Folder for runs and pictures; created if it is missing.")
    _HOST = flags.DEFINE_string("host", "127.0.0.1", "Address of the page. With 0.0.0.0, other machines can open it.")
    _PORT = flags.DEFINE_integer("port", 7860, "Port of the page.", 1, 65535)
    app.run(main, flags_parser=parse_flags)
