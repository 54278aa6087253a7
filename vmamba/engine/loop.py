"""The training loop, one for every task, by epochs and by iterations."""

import contextlib
import logging
import math
import time
import warnings

import torch
from timm.utils import ModelEmaV3, distribute_bn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from vmamba.config.errors import UserError
from vmamba.engine import compiling, costs, distributed, optim, seeding, state, weights
from vmamba.engine.checkpoint import Keeper
from vmamba.engine.meter import Meter
from vmamba.engine.nan_guard import NanGuard
from vmamba.engine.plan import Plan
from vmamba.engine.precision import Precision
from vmamba.engine.signals import Killed, Signals

log = logging.getLogger("vmamba")
LOOK_EVERY = 10  # updates between the looks that make ranks with GPUs wait for each other


class Loop:
    """A run in progress: the model and all that trains it, and where it is (``state``).

    An update is ``recipe.accumulate`` micro-batches. After each comes the boundary: leave if interrupted, save if due,
    evaluate if due (and save that), in this order: an evaluation may take longer than a cluster's warning, and one
    that an interrupted run owed is made good when it goes on.
    Before each micro-batch every generator is seeded from (seed, rank, epoch, batch).
    """

    def __init__(self, cfg, env, task, folder, hooks=()) -> None:
        self.cfg, self.env, self.task, self.folder = cfg, env, task, folder
        recipe = cfg.recipe
        self.loader = task.train_loader()
        self.plan = Plan.make(cfg, len(self.loader))
        self.precision = Precision(cfg.precision, env.device)
        seeding.seed_all(cfg.seed)
        self.model = task.build_model()
        self.flops = costs.flops(task, self.model) if env.is_main else None
        self.started = weights.start(task, self.model, cfg.init.ckpt) if cfg.init.ckpt else None
        self.model.to(env.device)
        self.ema = None
        if recipe.ema.enabled:
            self.ema = ModelEmaV3(self.model, decay=recipe.ema.decay, use_warmup=recipe.ema.warmup, foreach=True)
        if cfg.compile:
            for model in (self.model, self.ema and self.ema.module):
                if model is not None:
                    compiling.compile(task.compiled(model), cfg, env.device)
        self.wrapped = self._wrap()
        self.total_batch = recipe.batch_size * env.world_size * recipe.accumulate
        self.optimizer = optim.optimizer(self.model, recipe, self.total_batch, env.device)
        self.schedule = optim.schedule(
            self.optimizer, recipe, self.total_batch, self.plan.total, self.plan.warmup, self.plan.unit
        )
        # torch's fused kernels can leave the weights alone on the device's own word, without waiting for it
        self.skips_on_device = env.device.type == "cuda" and recipe.optimizer in optim.FUSED
        self.guard = NanGuard(folder, self.loader, each_step=not self.skips_on_device)
        self.keeper = Keeper(folder.checkpoints, cfg.checkpoint.keep_last)
        self.meter = Meter(env)
        self.signals = Signals()
        self.state, self.origin = state.State(), state.Origin()
        self.saved = -1
        self.hooks = [*hooks, self.guard]

    def run(self) -> None:
        """Trains to the end, from where ``resume`` finds a checkpoint. Raises Killed when interrupted."""
        costs.forget_peak(self.env.device)
        self.origin = state.resume(self, self.cfg.resume, self.folder.checkpoints)
        self.saved = self.state.step
        self.began = time.perf_counter() - self.state.seconds
        try:
            with self.signals:
                self._call("on_start")
                self._boundary()
                while self.state.step < self.plan.stop:
                    self._epoch()
                self._account()
                self._call("on_end")
        except BaseException as error:
            self._call("on_exception", error)
            raise
        finally:
            self.loader.close()

    @property
    def stop(self) -> int:
        return self.plan.stop

    @property
    def total_epochs(self) -> int | None:
        return self.plan.epochs

    @property
    def epoch_fraction(self) -> float:
        return self.state.epoch + self.state.batch / self.plan.batches

    def _wrap(self):
        if self.env.world_size == 1:
            return self.model
        # depthwise weights are one stride apart in two layouts at once; DDP warns of it on every rank, to no effect
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        ids = [self.env.device.index] if self.env.device.type == "cuda" else None
        return DistributedDataParallel(
            self.model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
        )

    def _epoch(self) -> None:
        """The rest of the current epoch, or of the run."""
        epoch = self.state.epoch
        self.wrapped.train()
        batches = self.loader.epoch(epoch, self.state.batch)
        while self.state.step < self.plan.stop and self.state.epoch == epoch:
            try:
                self._update(batches)
            except StopIteration:  # a streaming reader had less than it announced
                if not self.state.batch:
                    raise UserError("the training data ended before the first update of an epoch") from None
                self.state.epoch, self.state.batch = epoch + 1, 0
                break
            self._boundary()

    def _update(self, batches) -> None:
        began, where, accumulate = time.perf_counter(), self.state, self.plan.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        for micro in range(accumulate):
            batch = next(batches)
            compiling.step()
            seeding.seed_all(self.cfg.seed, self.env.rank, where.epoch, where.batch + micro, 2)
            last = micro == accumulate - 1
            waits = contextlib.nullcontext() if last or self.wrapped is self.model else self.wrapped.no_sync()
            with waits:
                with self.precision.autocast():
                    out = self.task.train_step(self.wrapped, batch)
                self.precision.scaler.scale(out["loss"] / accumulate).backward()
            self.guard.look(where, micro, out["loss"].detach(), batch)
            self.meter.add({f"train/{name}": value.detach() for name, value in out.items()})
        self._step_optimizer()
        where.step += 1
        where.batch += accumulate
        if where.batch + accumulate > self.plan.batches:
            where.epoch, where.batch = where.epoch + 1, 0
        if self.ema is not None:
            self.ema.update(self.model, step=where.step)
        rate = self.optimizer.param_groups[0]["lr"]
        self.schedule.step_update(where.step)
        self._after_update(began, rate)

    def _step_optimizer(self) -> None:
        scaler, limit = self.precision.scaler, self.cfg.recipe.clip_grad
        scaler.unscale_(self.optimizer)
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters])
        if limit:
            clip_grads_with_norm_(parameters, limit, norm)
        self.meter.add({"train/grad_norm": norm})
        if not scaler.is_enabled():
            self.guard.look_at_norm(self.state, norm)
        if self.guard.each_step:
            self.guard.stop_if_bad(self)
        if self.skips_on_device and not scaler.is_enabled():
            self.optimizer.grad_scale, self.optimizer.found_inf = None, self.guard.found_inf()
        scaler.step(self.optimizer)
        scaler.update()

    def _after_update(self, began: float, rate: float) -> None:
        where = self.state
        metrics = None
        if where.step % self.cfg.log_every == 0 or where.step == self.plan.stop:
            self.guard.stop_if_bad(self)
            metrics = self.meter.means()
        seconds = time.perf_counter() - began
        where.train_seconds += seconds
        self.meter.time(seconds, self.loader.waited)
        if metrics is not None:
            metrics = {**metrics, "train/lr": rate, **self.meter.speed(self.total_batch)}
            where.metrics.update(metrics)
            self._call("on_log", metrics)
        self._call("on_step", seconds)

    def _boundary(self) -> None:
        where = self.state
        if signum := self._interrupted():
            self._save()
            raise Killed(signum)
        saves = self.plan.saves(where.step)
        if saves and self.saved != where.step:
            self._save()
        if self.plan.evaluates(where.step) and where.evaluated != where.step:
            self._evaluate()
            if saves:
                self._save()

    def _interrupted(self) -> int:
        if self.env.device.type == "cuda" and self.env.world_size > 1 and self.state.step % LOOK_EVERY:
            return 0
        return distributed.all_max([self.signals.received], self.env.device)[0]

    def _evaluate(self) -> None:
        where, name = self.state, self.cfg.task.metric
        self.guard.stop_if_bad(self)
        if self.env.world_size > 1:
            for model in (self.model, self.ema and self.ema.module):
                if model is not None:
                    distribute_bn(model, self.env.world_size, reduce=True)
        metrics = self.evaluate_once(self.model if self.ema is None else self.ema.module)
        if self.ema is not None:
            raw = self.evaluate_once(self.model)
            metrics |= {key.replace("val/", "val_raw/", 1): value for key, value in raw.items()}
        self.wrapped.train()
        if name not in metrics:
            raise UserError(f"task.metric={name}: the task measures {', '.join(metrics)}")
        where.evaluated = where.step
        where.metrics.update(metrics)
        if self._better(metrics[name], where.best.get(name)):
            where.best = {**metrics, "step": where.step, "epoch": self.epoch_fraction}
            if self.cfg.checkpoint.best:
                self._write(lambda: self.keeper.save_best(state.weights(self)))
        self._call("on_evaluate", metrics)

    def _better(self, value: float, best: float | None) -> bool:
        """Whether a metric's value is the best so far: one that is no number only where there is none."""
        if best is None or not math.isfinite(value):
            return best is None
        return not math.isfinite(best) or (value > best if self.cfg.task.higher_is_better else value < best)

    @torch.no_grad()
    def evaluate_once(self, model) -> dict[str, float]:
        """The task's evaluation of one model, in eval mode, under the run's precision."""
        model.eval()
        with self.precision.autocast():
            return self.task.evaluate(model)

    def _save(self) -> None:
        self.guard.stop_if_bad(self)
        self._account()
        content = state.everything(self)
        path = self._write(lambda: self.keeper.save(self.state.step, content))
        self.saved = self.state.step
        self._call("on_checkpoint", path)

    def _account(self) -> None:
        self.state.seconds = time.perf_counter() - self.began
        self.state.memory = max(self.state.memory, costs.peak(self.env.device))

    def _write(self, action):
        """Does it on rank 0; a failure there is raised on every rank."""
        path = error = None
        if self.env.is_main:
            try:
                path = action()
            except (UserError, OSError) as failure:
                error = failure
        path, error = distributed.broadcast((path, error))
        if error is not None:
            raise error
        return path

    def _call(self, moment: str, *arguments) -> None:
        for hook in self.hooks:
            getattr(hook, moment)(self, *arguments)
