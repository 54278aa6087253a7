"""The run on the terminal: a bar where there is one, plain lines where there is not."""

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from vmamba.engine.hooks import Hook

log = logging.getLogger("vmamba")
SHORT = {"train/loss": "loss", "train/acc1": "acc"}


class Bar(Hook):
    """Loss, accuracy, images/s and ETA in one line: rewritten on a terminal, else logged every ``every`` seconds."""

    def __init__(self, metric: str, every: float = 10.0) -> None:
        self.metric, self.every = metric, every
        self.shown = {}
        self.speed = 0.0
        self.bar = self.task = None
        self.began = self.last = 0.0
        self.first_step = 0
        self._streams = []

    def on_start(self, loop) -> None:
        self.began = self.last = time.monotonic()
        self.first_step = loop.state.step
        if not sys.stderr.isatty():
            return
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=8),
            TextColumn("{task.fields[shown]}  ETA"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self.bar.start()
        self._route_logs()
        self.task = self.bar.add_task("train", total=loop.stop, completed=loop.state.step, shown="")

    def on_step(self, loop, seconds) -> None:
        if self.bar:
            self.bar.update(self.task, completed=loop.state.step, description=self._where(loop), shown=self._text())
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            log.info("%s  %s  ETA %s", self._where(loop), self._text(), self._eta(loop))

    def on_log(self, loop, metrics) -> None:
        self.shown.update({k: v for k, v in metrics.items() if k in SHORT})
        self.speed = metrics["train/images_per_s"]

    def on_evaluate(self, loop, metrics) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        self.shown.update({k: v for k, v in metrics.items() if k == self.metric})
        log.info("%s  %s", self._where(loop), shown)

    def on_end(self, loop) -> None:
        self._close()

    def on_exception(self, loop, error) -> None:
        self._close()

    def _where(self, loop) -> str:
        if loop.total_epochs:
            return f"epoch {min(loop.epoch_fraction, loop.total_epochs):.1f}/{loop.total_epochs}"
        return f"step {loop.state.step}/{loop.stop}"

    def _text(self) -> str:
        parts = [f"{SHORT.get(name, name.replace('/', ' '))} {value:.3g}" for name, value in self.shown.items()]
        return "  ".join([*parts, f"{self.speed:.0f} images/s"] if self.speed else parts)

    def _eta(self, loop) -> str:
        done = loop.state.step - self.first_step
        left = int((time.monotonic() - self.began) / max(done, 1) * (loop.stop - loop.state.step))
        return f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d}"

    def _route_logs(self) -> None:
        """Log lines go above the bar: handlers that hold the terminal get rich's stand-in for it."""
        terminals = {sys.__stdout__: sys.stdout, sys.__stderr__: sys.stderr}
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in terminals and handler.stream.isatty():
                self._streams.append((handler, handler.stream))
                handler.setStream(terminals[handler.stream])

    def _close(self) -> None:
        for handler, stream in self._streams:
            handler.setStream(stream)
        self._streams = []
        if self.bar:
            self.bar.stop()
            self.bar = None
