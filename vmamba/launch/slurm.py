"""``launcher=slurm``: one job array through submitit, split where SLURM takes no longer one."""

import os
import re
import shlex
import shutil
import subprocess
import sys

from vmamba.config.errors import UserError
from vmamba.launch import queue, snapshot
from vmamba.launch.folder import SweepFolder
from vmamba.launch.slurm_job import SlurmPoint

ARRAY = 1001  # SLURM's MaxArraySize unless it says otherwise
# Signals are ignored, which a child takes over, until the job has a handler for them: its interpreter takes seconds to
# start, and a notice of preemption in that time would kill it. The shell stays to notice a SIGKILL; the other processes
# of a job fail when one of them is gone, and must not end it before it is put back in the queue.
WRAPPER = """#!/bin/sh
trap '' USR2 TERM
killed={slurm}/$SLURM_JOB_ID.${{SLURM_RESTART_COUNT:-0}}.killed
{python} "$@"
code=$?
if [ $code -eq 137 ]; then
  : >"$killed"
  exec {python} -m vmamba.launch.lost {sweep}
fi
if [ $code -ne 0 ] && [ $code -lt 128 ] && [ "${{SLURM_NTASKS:-1}}" -gt 1 ]; then
  sleep 5
  [ ! -e "$killed" ] || sleep 300
fi
exit $code
"""


def check() -> None:
    """UserError where nothing can be submitted from."""
    for word in ("sbatch", "srun"):
        if not shutil.which(word):
            raise UserError(
                f"launcher=slurm: there is no {word} here; submit on a machine of the cluster, "
                "or take launcher=subprocess"
            )


def submit(sweep: SweepFolder, lines: list[dict], launcher: dict) -> list[dict]:
    """Submits the points and appends them to ``jobs.jsonl``, array by array. Returns the lines with their job ids.

    UserError with sbatch's own reason if it refuses; what was submitted before stays, and the line says so.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    check()
    _write_wrapper(sweep, launcher)
    executor = submitit.SlurmExecutor(folder=sweep.slurm, python=shlex.quote(str(sweep.slurm / "python.sh")))
    executor.update_parameters(**_parameters(sweep, launcher))
    done, size = [], _array_size()
    for start in range(0, len(lines), size):
        part = lines[start : start + size]
        try:
            with executor.batch():
                jobs = [executor.submit(SlurmPoint(str(sweep.run(line).path))) for line in part]
        except (FailedJobError, FailedSubmissionError, subprocess.CalledProcessError, OSError) as error:
            raise UserError(_refusal(sweep, error, len(done), len(lines))) from None
        ready = [
            line | {"job": job.job_id, "log": str(job.paths.stdout.relative_to(sweep.path))}
            for line, job in zip(part, jobs, strict=True)
        ]
        sweep.submitted(ready)
        done += ready
    return done


def _parameters(sweep: SweepFolder, launcher: dict) -> dict:
    """submitit's parameters, those not asked for left out."""
    gpus = 1 if launcher["gpus"] is None else launcher["gpus"]
    memory = launcher["memory"]
    code = sweep.code if sweep.code.is_dir() else None
    wanted = {
        "job_name": re.sub(r"[^\w.-]", "_", sweep.path.name),
        "partition": launcher["partition"],
        "account": launcher["account"],
        "qos": launcher["qos"],
        "nodes": launcher["nodes"],
        "ntasks_per_node": launcher["tasks"] or max(1, gpus),
        "gpus_per_node": gpus or None,
        "cpus_per_task": launcher["cpus"],
        "mem": None if memory is None else f"{round(memory * 1024)}M",
        "time": launcher["time"],
        "signal_delay_s": launcher["warning"],
        "constraint": launcher["constraint"],
        "exclude": launcher["exclude"],
        "array_parallelism": launcher["parallel"] or 10000,
        "stderr_to_stdout": True,
        # a rank that fails ends the others, which wait for it
        "srun_args": ["--kill-on-bad-exit=1", *launcher["srun"]],
        "additional_parameters": {"requeue": True, "wckey": "vmamba"} | launcher["sbatch"],
        "setup": [*_exports(snapshot.environment(code, os.getcwd()) | launcher["env"]), *launcher["setup"]],
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _exports(variables: dict[str, str]) -> list[str]:
    return [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]


def _write_wrapper(sweep: SweepFolder, launcher: dict) -> None:
    sweep.slurm.mkdir(parents=True, exist_ok=True)
    wrapper = sweep.slurm / "python.sh"
    python = launcher["python"] or shlex.quote(sys.executable)
    paths = {"slurm": shlex.quote(str(sweep.slurm)), "sweep": shlex.quote(str(sweep.path))}
    wrapper.write_text(WRAPPER.format(python=python, **paths))
    wrapper.chmod(0o755)


def _array_size() -> int:
    """How many jobs an array may have. UserError if SLURM does not answer."""
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=queue.SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        raise UserError("scontrol does not answer: is slurmctld up? Nothing was submitted") from None
    if done.returncode:
        raise UserError(f"SLURM does not answer ({queue.shortened(done.stderr)}); nothing was submitted")
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", done.stdout)
    return max(1, int(found[1]) if found else ARRAY)


def _refusal(sweep: SweepFolder, error: Exception, done: int, total: int) -> str:
    said = getattr(error, "stderr", None) or str(error)
    said = said.decode() if isinstance(said, bytes) else said
    reasons = [line for line in said.splitlines() if line.startswith(("sbatch:", "srun:"))] or said.splitlines()[-1:]
    reason = queue.shortened("\n".join(reasons))
    if not done:
        return f"sbatch refused: {reason}; nothing was submitted"
    return (
        f"sbatch refused: {reason}; {done} of {total} points were submitted, the others go with: "
        f"python -m vmamba.sweep resume {sweep.path}"
    )
