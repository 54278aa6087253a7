"""CPU, memory, disk, network and GPUs of the machine, sampled into the run folder: an outage of a store costs none.

The values are those of MLflow's own monitors and have their names (``system/cpu_utilization_percentage``), so its page
of system metrics shows them.
"""

import logging
import threading

from vmamba.config.errors import UserError
from vmamba.tracking.folder import MetricsWriter, RunFolder, read_records

log = logging.getLogger("vmamba.feeder")
SECONDS = 10.0  # between samples


class Sampler:
    """A thread that appends a record to ``system.jsonl`` every ``SECONDS``, from ``start`` to ``stop``."""

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins; numbers the samples on from those of an earlier life of the run."""
        self._monitors = _monitors()
        self._thread.start()

    def stop(self) -> None:
        """Ends it; what was sampled is in the file."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        number = 1 + max((record["step"] for record in read_records(self.folder.system)), default=-1)
        try:
            with MetricsWriter(self.folder.system) as writer:
                while not self._over.wait(SECONDS):
                    writer.log(number, 0.0, self._sample())
                    number += 1
        except (UserError, OSError) as error:
            log.warning("no more system metrics: %s", error)

    def _sample(self) -> dict[str, float]:
        found = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            found |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        return found


def _monitors() -> list:
    """MLflow's, those of GPUs where there are any."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    found = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        return [*found, GPUMonitor()]
    except (ImportError, RuntimeError):
        return found
