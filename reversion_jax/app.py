"""Opens the app, a page in the browser on which a relation is learned, drawn and looked into:

    python -m reversion_jax.app

It works at once and offline with the miniature, which comes with the package. Runs are kept in --folder; nothing
outside it can be reached from the page. It needs gradio: pip install 'reversion_jax[app]'. docs/app.md shows the page.
"""

from reversion_jax.runtime.errors import one_line, parse_flags


@one_line
def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise ValueError(f"unexpected argument {argv[1]!r}: use --folder, --host and --port")
    from reversion_jax.runtime.compilation import keep_compiled

    try:
        from reversion_jax.training.page import serve  # after the flags are read: --help need not load JAX
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(
            "the app needs gradio: pip install 'reversion_jax[app]' (from a checkout -e '.[app]')"
        ) from error

    keep_compiled()
    serve.serve(_FOLDER.value, _HOST.value, _PORT.value)


if __name__ == "__main__":
    from absl import app, flags

    _FOLDER = flags.DEFINE_string("folder", "runs", "Where runs and pictures are kept; made if it is not there.")
    _HOST = flags.DEFINE_string("host", "127.0.0.1", "Address to serve at. Other machines can use any but this one.")
    _PORT = flags.DEFINE_integer("port", 7860, "Port to serve at.", 1, 65535)
    app.run(main, flags_parser=parse_flags)
