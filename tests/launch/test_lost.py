"""A job whose Python was killed: the wrapper that notices, and what it makes of it."""

import os
import subprocess
from pathlib import Path

import pytest

from vmamba.launch import lost
from vmamba.launch.folder import SweepFolder
from vmamba.launch.slurm import _write_wrapper
from vmamba.tracking.folder import RunFolder


def wrapper(folder: Path, script: str, **env: str) -> subprocess.CompletedProcess:
    """What the wrapper does around a pretended Python, which is a shell script."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    sweep = SweepFolder(folder / "a sweep")
    _write_wrapper(sweep, {"python": str(python)})
    command = [str(sweep.slurm / "python.sh"), "-u", "-m", "job"]
    env = os.environ | {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"} | env
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)


KILL_ITSELF = 'case "$*" in *vmamba.launch.lost*) echo "lost:$4"; exit 137;; esac; kill -9 $$'


def test_the_wrapper_notices_a_sigkill_and_nothing_else(tmp_path):
    done = wrapper(tmp_path, KILL_ITSELF.replace("$4", "$3"))
    assert done.stdout.strip() == f"lost:{tmp_path}/a sweep" and done.returncode == 137
    for code in (0, 1, 75, 143):
        done = wrapper(tmp_path, f'echo "$@"; exit {code}')
        assert (done.returncode, done.stdout.strip()) == (code, "-u -m job")


def test_signals_at_the_start_end_neither_wrapper_nor_interpreter(tmp_path):
    done = wrapper(tmp_path, "kill -USR2 $$ $PPID; kill -TERM $$ $PPID; echo alive")
    assert done.returncode == 0 and done.stdout.strip() == "alive"


def test_a_process_that_fails_of_anothers_kill_waits_for_the_requeue(tmp_path):
    slurm = tmp_path / "a sweep" / "slurm"
    slurm.mkdir(parents=True)
    sleep = tmp_path / "sleep"  # in place of the real one: says how long it was to take
    sleep.write_text('#!/bin/sh\necho "$1 s"\n')
    sleep.chmod(0o755)
    env = {"SLURM_NTASKS": "2", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = wrapper(tmp_path, "exit 1", **env)
    assert (done.returncode, done.stdout.split("\n")) == (1, ["5 s", ""])
    (slurm / "7.0.killed").touch()
    assert wrapper(tmp_path, "exit 1", **env).stdout.split("\n") == ["5 s", "300 s", ""]


@pytest.fixture
def point(tmp_path) -> RunFolder:
    folder = RunFolder(tmp_path / "0").create()
    folder.config.write_text("launcher: {memory: 2.0, requeues: 1}\n")
    folder.write_status("running")
    return folder


def test_a_killed_point_goes_back_so_often_and_no_oftener(point, monkeypatch):
    monkeypatch.setattr(lost, "out_of_memory", lambda: False)
    assert lost.again(point) and point.read_status()["state"] == "queued"
    assert lost.again(point) and point.read_status()["preempted"] == 1  # another process of the same job
    point.write_status("running")
    assert not lost.again(point)
    assert point.read_status()["state"] == "killed" and "requeues=1" in point.read_status()["error"]


def test_out_of_memory_is_said_and_not_tried_again(point, monkeypatch):
    monkeypatch.setattr(lost, "out_of_memory", lambda: True)
    assert not lost.again(point)
    status = point.read_status()
    assert status["state"] == "failed" and "out of memory (2 GB a node)" in status["error"]


@pytest.mark.parametrize(
    ("line", "file", "text", "found"),
    [
        ("0::/slurm/job_7/step_0/task_0", "slurm/job_7/step_0/memory.events", "low 0\noom 3\noom_kill 1\n", True),
        ("0::/slurm/job_7/step_0/task_0", "slurm/job_7/step_0/memory.events", "low 0\noom 3\noom_kill 0\n", False),
        ("0::/slurm/job_7/step_0/task_0", "slurm/memory.events", "oom_kill 9\n", False),  # of other jobs
        ("4:memory:/slurm/job_7/step_0", "memory/slurm/job_7/memory.oom_control", "under_oom 0\noom_kill 2\n", True),
        ("4:cpu:/slurm/job_7/step_0", "slurm/job_7/memory.events", "oom_kill 9\n", False),
        ("0::/", "memory.events", "oom_kill 9\n", False),
    ],
)
def test_the_kernels_word_on_memory(tmp_path, monkeypatch, line, file, text, found):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (tmp_path / "cgroup").write_text(f"{line}\n")
    (tmp_path / "root" / file).parent.mkdir(parents=True)
    (tmp_path / "root" / file).write_text(text)
    assert lost.out_of_memory(tmp_path / "cgroup", tmp_path / "root") is found
