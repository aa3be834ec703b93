"""Builds the page with its three tabs and serves it from this machine. The page loads nothing from the internet."""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reversion_jax.training.page import address
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.trainer import Trainer
from reversion_jax.training.page.uploads import MAX_FILE

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # must be set before gradio is imported

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from reversion_jax.training.page import draw_room, learn_room, look_room

_TITLE = "Relation inversion"
_FONT = (
    gr.themes.utils.fonts.LocalFont("IBM Plex Sans", weights=(400, 700)),
    "ui-sans-serif",
    "system-ui",
    "sans-serif",
)
_INTRO = """<header><h1>Learn a relation, draw it</h1>
<p>From a few pictures that share a relation, such as one thing hanging from another, the app learns one word for the
relation.</p>
</header>"""


def build(place: Place, trainer: Trainer) -> gr.Blocks:
    """Builds the page."""
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(3600, 86400), fill_width=False) as page:
        gr.HTML(_INTRO)
        with gr.Tabs():
            learn_room.build(place, trainer)
            draw_room.build(place, trainer)
            look_room.build(place, trainer)
    return page


def theme() -> gr.themes.Base:
    """Returns the page's colours and font. The font comes with gradio, so the browser does not load it from Google."""
    base = gr.themes.Base(primary_hue="indigo", neutral_hue="stone", radius_size="md", font=_FONT)
    # Gradio's own grey for hints is too pale on white.
    return base.set(
        body_text_color_subdued="*neutral_600",
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_800",
        input_placeholder_color="*neutral_500",
        body_background_fill="#fbfaf8",
        block_background_fill="white",
        input_background_fill="white",
        input_border_width="1px",
        input_border_color="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        checkbox_label_background_fill="white",
        checkbox_label_border_width="1px",
        checkbox_label_border_color="*neutral_300",
    )


@contextlib.contextmanager
def served(folder: str, host: str, port: int) -> Iterator[tuple[gr.Blocks, Trainer]]:
    """Serves the page while the `with` body runs.

    At the end of the body, a run in progress writes a checkpoint and stops.
    Raises OSError if the port is taken or the folder cannot be written.
    """
    place, trainer = Place(folder), Trainer()
    address.refuse_taken(host, port)
    place.folder.mkdir(parents=True, exist_ok=True)
    address.warn_of_others(host, place.folder)
    before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="reversion-", ignore_cleanup_errors=True) as handed_out:
        # Uploads and pictures for the browser are stored in a temporary folder, which is deleted at the end.
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = handed_out
        page = build(place, trainer)
        try:
            _launch(page, place, host, port)
            yield page, trainer
        finally:
            trainer.stop()
            trainer.wait()
            page.close(verbose=False)
            os.environ["GRADIO_TEMP_DIR"], tempfile.tempdir = before[0] or "", before[1]


def _launch(page: gr.Blocks, place: Place, host: str, port: int) -> None:
    # Accept requests only under this machine's own names. Checking the names prevents DNS rebinding, in which
    # another site makes its own domain name point to this machine, and the browser sends requests under that name.
    names = ["localhost", "127.0.0.1", "::1", "[::1]", host]
    own_names = Middleware(TrustedHostMiddleware, allowed_hosts=names if address.is_loopback(host) else ["*"])
    page.queue(default_concurrency_limit=4, max_size=64)
    page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        blocked_paths=[str(place.folder)],  # the browser gets copies of the files that the page shows
        max_file_size=MAX_FILE,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        share=False,
        theme=theme(),
        app_kwargs={"middleware": [own_names]},
        css_paths=[Path(__file__).with_name("style.css")],
    )


def serve(folder: str, host: str, port: int) -> None:
    """Serves the page until Ctrl-C or SIGTERM. Raises OSError as `served` does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with served(folder, host, port) as (page, _):
        print(f"open {address.url(host, port)} in a browser; press Ctrl-C to end", flush=True)
        page.block_thread()
