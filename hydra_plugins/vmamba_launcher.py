"""What Hydra loads at its start: the launcher that hands a sweep's points to ``vmamba.launch``."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher


@dataclass
class LauncherConf:
    """All there is to choose is in the group ``launcher``, typed and validated like the rest of a run."""

    _target_: str = "hydra_plugins.vmamba_launcher.VmambaLauncher"


ConfigStore.instance().store(group="hydra/launcher", name="vmamba", node=LauncherConf, provider="vmamba")


class VmambaLauncher(Launcher):
    """Every kind of ``launcher=``."""

    def setup(self, *, hydra_context, task_function, config) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from vmamba.launch.submit import from_hydra

        return from_hydra(self.loader, self.config, [list(words) for words in job_overrides], initial_job_idx)
