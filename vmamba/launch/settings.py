"""The launcher's settings: as JSON keeps them, changed at a resume, and held against this machine."""

from omegaconf import OmegaConf

from vmamba.config import rules
from vmamba.config.compose import update
from vmamba.config.errors import UserError
from vmamba.config.schema import Launcher, Run
from vmamba.launch import pool, slurm


def plain(launcher: Launcher) -> dict:
    """The launcher's settings in JSON's types."""
    return OmegaConf.to_container(OmegaConf.structured(launcher), enum_to_str=True)


def changed(launcher: dict, words: list[str]) -> dict:
    """The settings of a launcher with ``launcher.key=value`` words on them; ``launcher=kind`` takes another one."""
    cfg = OmegaConf.create({"launcher": OmegaConf.merge(OmegaConf.structured(Launcher), launcher)})
    OmegaConf.set_struct(cfg, True)
    for word in words:
        word = word.removeprefix("+")  # as in +launcher.sbatch={reservation:mine}
        if word.startswith("launcher="):
            word = word.replace("launcher=", "launcher.kind=", 1)
        if not word.startswith("launcher."):
            raise UserError(f"{word}: a sweep keeps its runs as they are; what can change is launcher.key=value")
        update(cfg, word)
    launcher = plain(OmegaConf.to_object(cfg.launcher))
    check(launcher)
    return launcher


def check(launcher: dict) -> None:
    """UserError for what this machine cannot do, before anything is written."""
    if launcher["kind"] == "slurm":
        slurm.check()
    elif launcher["kind"] == "subprocess":
        pool.slots(launcher)


def cuda_there(run: Run) -> bool | None:
    """Whether there will be a GPU where the points of this run's launcher run."""
    if run.launcher.kind == "slurm":
        return run.launcher.gpus != 0
    return False if run.launcher.gpus == 0 and run.launcher.kind == "subprocess" else rules.cuda_here()
