"""How long a run is and what is due when, counted in optimizer updates."""

from dataclasses import dataclass

from vmamba.config.errors import UserError


@dataclass(frozen=True)
class Plan:
    """``batches`` is what the loader gives a rank in an epoch, ``per_epoch`` the updates made of them.

    ``total`` is the length the schedule is made for, ``stop`` where the run ends (earlier with
    ``limit.train_steps``), ``epochs`` None in a run by iterations, ``unit`` the updates in an epoch (by iterations: 1).
    """

    batches: int
    accumulate: int
    per_epoch: int
    total: int
    stop: int
    warmup: int
    unit: int
    epochs: int | None
    eval_every: int
    save_every: int
    also_save_every: int

    @classmethod
    def make(cls, cfg, batches: int) -> "Plan":
        recipe, by_epoch = cfg.recipe, cfg.recipe.loop == "epochs"
        per_epoch = batches // recipe.accumulate
        if not per_epoch:
            raise UserError(
                f"an epoch has {batches} batches, one update takes recipe.accumulate={recipe.accumulate}: "
                "make recipe.accumulate or recipe.batch_size smaller"
            )
        unit = per_epoch if by_epoch else 1
        total = recipe.epochs * per_epoch if by_epoch else recipe.iters
        eval_every = recipe.eval_every * unit
        epochs_end = cfg.checkpoint.every_epochs * per_epoch
        return cls(
            batches=batches,
            accumulate=recipe.accumulate,
            per_epoch=per_epoch,
            total=total,
            stop=total if cfg.limit.train_steps is None else min(total, cfg.limit.train_steps),
            warmup=min(round(recipe.warmup * unit) if recipe.warmup_steps is None else recipe.warmup_steps, total - 1),
            unit=unit,
            epochs=recipe.epochs if by_epoch else None,
            eval_every=eval_every,
            save_every=epochs_end if by_epoch else eval_every,
            also_save_every=cfg.checkpoint.every_steps,
        )

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due after this many updates."""
        return step > 0 and (step == self.stop or step % self.eval_every == 0)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due after this many updates (and the evaluation of that moment)."""
        if step <= 0:
            return False
        every = [n for n in (self.save_every, self.also_save_every) if n > 0]
        return step == self.stop or any(step % n == 0 for n in every)
