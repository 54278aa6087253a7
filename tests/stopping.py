"""A training run that ends at a step of our choice, as if the process had gone."""

from vmamba.engine.hooks import Hook


class Stop(Exception):
    pass


class StopAt(Hook):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, loop, seconds) -> None:
        if loop.state.step == self.step:
            raise Stop
