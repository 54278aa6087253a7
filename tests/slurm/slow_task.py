"""Classification that sleeps in every update (``+model.kwargs.nap=0.1``) or fails (``+model.kwargs.boom=true``)."""

import time

from vmamba_tasks.classification import Classification


class Slow(Classification):
    def train_step(self, model, batch):
        if self.cfg.model.kwargs.get("boom"):
            raise RuntimeError("a point of its own making")
        time.sleep(self.cfg.model.kwargs.get("nap", 0.0))
        return super().train_step(model, batch)
