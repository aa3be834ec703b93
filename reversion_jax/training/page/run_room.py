"""The right half of the Learn tab: shows the current run or a run from the list, and resumes runs."""

from typing import Any

import gradio as gr

from reversion_jax.training.page import pieces, run_view, start
from reversion_jax.training.page import trainer as training
from reversion_jax.training.page.handlers import QUIET, connect
from reversion_jax.training.page.place import Place
from reversion_jax.training.page.run_view import LOSSES
from reversion_jax.training.page.trainer import State, Trainer

_EMPTY = "Nothing has been learned in this folder yet. The drawn shapes are ready: press “Learn this relation”."
_STOP, _STOPPING = "Stop, and keep what is learned", "Stopping …"
_TICK_SECONDS = 1.0


class RunRoom:
    """Shows a run's status, picture, losses and nearest words, and the list of runs."""

    def __init__(self, place: Place, trainer: Trainer, begin: gr.Button):
        self._place, self._trainer, self._begin = place, trainer, begin
        bare: dict[str, Any] = {"show_label": False, "container": False}
        gr.HTML("<h2>Run</h2>")
        self._status = gr.HTML(elem_id="status")
        self._stop = gr.Button(_STOP, visible=False, size="sm", elem_id="stop")
        looks: dict[str, Any] = {"visible": False, "interactive": False, "buttons": ["fullscreen"], **bare}
        self._picture = gr.Image(elem_id="preview", **looks)
        self._caption = gr.HTML(elem_id="preview-caption")
        self._nearest = gr.HTML(elem_id="nearest")
        with gr.Row(visible=False) as self._plots:
            axes: dict[str, Any] = {"x": "step", "x_title": "step", "y_title": " ", "height": 180, "min_width": 200}
            titles = [(name, f"{name} loss") for name in LOSSES]
            self._losses = [gr.LinePlot(y=y, title=title, buttons=[], **axes, **bare) for y, title in titles]
        with gr.Column(visible=False) as self._list:
            gr.HTML("<h2>Runs in this folder</h2>")
            self.chosen = gr.Radio([], elem_id="runs", elem_classes="list", **bare)
            with gr.Row(visible=False, elem_classes="further") as self._further:
                self._steps = gr.Number(label="Steps in total", elem_id="steps-in-all", min_width=120, precision=0)
                self._take_up = gr.Button("Resume", elem_id="take-up")
        self._message = gr.HTML(elem_id="run-message")
        self._seen = gr.State(None)
        self._connect()

    @property
    def _outputs(self) -> list[Any]:
        of_run = [self._picture, self._caption, self._nearest, self._plots, *self._losses]
        of_list = [self._list, self.chosen, self._further, self._steps, self._take_up]
        return [self._status, self._stop, *of_run, *of_list, self._begin, self._seen]

    def _connect(self) -> None:
        inputs = [self.chosen, self._seen]
        connect(gr.Timer(_TICK_SECONDS).tick, self.watch, inputs, self._outputs, **QUIET)
        self.refresh_after(self.chosen.input(lambda: None, api_visibility="private", **QUIET))
        connect(self._stop.click, self._stopped, [], [self._stop], self._message, **QUIET)
        up = lambda name, steps: [start.take_up(self._place, self._trainer, name, steps)]
        taken = connect(self._take_up.click, up, [self.chosen, self._steps], [self.chosen], self._message, **QUIET)
        self.refresh_after(taken)

    def refresh_after(self, event: Any) -> None:
        """Updates all outputs when an event is done, without waiting for the timer's next tick."""
        connect(event.then, lambda name: self.watch(name, None), [self.chosen], self._outputs, **QUIET)

    def select(self, name: str) -> dict:
        """Returns an update of the list that selects a run, which may be new."""
        return gr.update(choices=self._choices(name), value=name)

    def _choices(self, shown: str) -> list[tuple[str, str]]:
        return pieces.run_list(self._place.runs(), shown, self._trainer.state)

    def _stopped(self) -> list[Any]:
        self._trainer.stop()
        return [gr.update(interactive=False, value=_STOPPING)]

    def watch(self, name: str | None, seen: object) -> list[Any]:
        """Returns the values of all outputs for the run `name`, or skips them if nothing has changed since `seen`."""
        state = self._trainer.state
        name = name or state.name or next((run.name for run in self._place.runs()), "")
        preview = run_view.newest_preview(self._place.first_run(name)) if name else None
        now = (name, state, preview)
        if now == seen:
            return [gr.skip()] * len(self._outputs)
        choices = gr.update(choices=self._choices(name), value=name or None)
        listed = gr.update(visible=bool(name))
        free = gr.update(interactive=not state.under_way)
        further = gr.update(visible=bool(name) and not state.under_way)
        # Keep the number of steps that the user has typed, unless the page now shows another run.
        is_same = isinstance(seen, tuple) and seen[:2] == now[:2]
        steps = gr.skip() if is_same else next((run.wanted() for run in self._place.runs() if run.name == name), 1)
        return [*self._of_state(name, state), *self._of_run(name), listed, choices, further, steps, free, free, now]

    def _of_state(self, name: str, state: State) -> list[Any]:
        """Returns the values of the outputs for the status and the Stop button."""
        if not name:
            return [gr.update(value=pieces.empty(_EMPTY), visible=True), gr.update(visible=False)]
        stopping = state.stage == training.STOPPING
        status = pieces.status(state) if name == state.name else pieces.elsewhere(state) if state.under_way else ""
        button = gr.update(visible=state.under_way, interactive=not stopping, value=_STOPPING if stopping else _STOP)
        return [gr.update(value=status, visible=bool(status)), button]

    def _of_run(self, name: str) -> list[Any]:
        """Returns the values of the outputs for picture, caption, nearest words, plots and losses."""
        hidden = gr.update(visible=False)
        if not name:
            return [hidden, "", "", hidden, *[None] * len(LOSSES)]
        view = run_view.view(self._place.first_run(name))
        losses = [view.losses[["step", loss]] if len(view.losses) else None for loss in LOSSES]
        picture = gr.update(value=view.picture, visible=view.picture is not None)
        plots = gr.update(visible=len(view.losses) > 0)
        return [picture, pieces.hint(view.caption), pieces.nearest(view.nearest), plots, *losses]
