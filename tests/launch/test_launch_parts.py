"""The parts of the launcher that need neither a job nor SLURM."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmamba.config import rules
from vmamba.config.compose import compose, composed
from vmamba.config.errors import UserError
from vmamba.launch import local, pool, queue, slurm, snapshot, turns
from vmamba.launch.folder import SweepFolder
from vmamba.launch.freeze import freeze
from vmamba.launch.points import points
from vmamba.launch.settings import changed, plain
from vmamba.launch.slurm_job import join
from vmamba.tracking.folder import LOST, RunFolder

LAUNCHER = plain(compose()[0].launcher)


@pytest.mark.parametrize(
    "words",
    [
        [["model.d_state=1", "seed=3"], ["model.d_state=2", "seed=3"]],
        [["norm=ln", "model.dims=[8,16,32,64]"], ["norm=ln2d", "recipe.lr=1e-3"]],
        [["recipe.lr=1", "recipe=imagenet_300e"], ["recipe.lr=2", "recipe=imagenet_300e", "+tracking.tags.a=b"]],
    ],
)
def test_frozen_points_are_what_hydra_composes(words):
    found = freeze(composed, words, lambda run: False)
    assert [point.run for point in found] == [compose(point, cuda=False)[0] for point in words]


def test_freezing_composes_once_for_each_choice_of_files():
    calls = []
    words = [[f"norm={norm}", f"seed={seed}"] for norm in ("ln", "ln2d") for seed in range(5)]
    found = freeze(lambda chosen: calls.append(chosen) or composed(chosen), words, lambda run: None)
    assert len(calls) == 2 and [point.run.seed for point in found] == [*range(5), *range(5)]
    assert found[0].own == ["norm=ln", "seed=0"]


@pytest.mark.parametrize(("bad", "part"), [("model.d_state=0", "at least 1"), ("model.d_sate=2", "no such setting")])
def test_a_bad_point_is_named(bad, part):
    with pytest.raises(UserError, match=part) as refused:
        freeze(composed, [["model.d_state=1"], [bad]], lambda run: None)
    assert str(refused.value).startswith(f"point 1 ({bad})") and "nothing was started" in str(refused.value)


def test_a_mistake_that_all_points_share_is_blamed_on_none():
    with pytest.raises(UserError) as refused:
        freeze(composed, [["launcher.parallel=0", f"seed={seed}"] for seed in (1, 2)], lambda run: None)
    assert str(refused.value) == "launcher.parallel=0: must be at least 1"


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("launcher=slurm launcher.time=1", "launcher.warning=20"),
        ("launcher.nodes=0", "launcher.nodes=0: must be at least 1"),
        ("launcher=nowhere", "Choose from: example_site, local, slurm, subprocess"),
        ("launcher.gpus=-1", "must not be negative"),
        ("launcher.sbatch={reservation:mine}", "keys of your own go in with a +: +launcher.sbatch"),
    ],
)
def test_a_launcher_that_cannot_be_is_refused(words, part):
    with pytest.raises(UserError) as refused:
        compose(words.split())
    assert part in str(refused.value) and "\n" not in str(refused.value)


def test_a_resume_changes_the_launcher_and_nothing_else(monkeypatch):
    assert changed(LAUNCHER, ["launcher.time=7", "launcher=subprocess"])["time"] == 7
    assert changed(LAUNCHER, ["+launcher.sbatch={nodelist:n5}"])["sbatch"] == {"nodelist": "n5"}
    for word, part in (("model.d_state=2", "keeps its runs"), ("launcher.tme=1", "no such setting")):
        with pytest.raises(UserError, match=part):
            changed(LAUNCHER, [word])


def test_interruptions_in_a_row_without_a_new_checkpoint_are_bounded(tmp_path):
    folder = RunFolder(tmp_path).create()
    folder.write_status("running")
    assert turns.interrupted(folder, 1) and folder.read_status()["state"] == "queued"
    (folder.checkpoints / "step_00000005.pt").touch()
    assert turns.interrupted(folder, 1) and turns.interrupted(folder, 2)
    assert not turns.interrupted(folder, 2)
    status = folder.read_status()
    assert status["state"] == "killed" and status["preempted"] == 4 and "requeues=2" in status["error"]
    turns.afresh(folder, 2)
    assert turns.begin(folder, 2) and folder.read_status()["preempted"] == 4


def test_a_process_of_an_earlier_submission_does_not_begin(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path).create()
    turns.cancel(folder)
    turns.afresh(folder, 2)
    monkeypatch.setenv(turns.ATTEMPT, "1")
    assert not turns.begin(folder, 5)
    monkeypatch.setenv(turns.ATTEMPT, "2")
    folder.write_status("queued")
    assert turns.begin(folder, 5)


def test_a_cancelled_point_does_not_come_back(tmp_path):
    folder = RunFolder(tmp_path).create()
    turns.cancel(folder)
    assert not turns.begin(folder, 5) and not turns.interrupted(folder, 5)
    assert folder.read_status()["error"] == "cancelled"


@pytest.mark.parametrize(
    ("devices", "settings", "expected"),
    [
        (0, {}, [None]),
        (0, {"parallel": 3}, [None] * 3),
        (4, {}, ["0", "1", "2", "3"]),
        (4, {"gpus": 2}, ["0,1", "2,3"]),
        (2, {"parallel": 3}, ["0", "1", "0"]),
        (2, {"gpus": 0}, [""]),
    ],
)
def test_gpus_are_dealt_out(monkeypatch, devices, settings, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(rules, "cuda_devices", lambda: devices)
    assert pool.slots(LAUNCHER | settings) == expected


def test_more_gpus_than_there_are(monkeypatch):
    monkeypatch.setattr(rules, "cuda_devices", lambda: 1)
    with pytest.raises(UserError, match="this machine has 1"):
        pool.slots(LAUNCHER | {"gpus": 2})


@pytest.mark.parametrize(
    ("state", "said", "expected"),
    [
        ("PENDING", "running", "queued"),
        ("PENDING", "killed", "queued"),
        ("RUNNING", "running", "running"),
        ("OUT_OF_MEMORY", "running", "killed"),
        ("CANCELLED", "queued", "killed"),
        ("FAILED", "killed", "killed"),
    ],
)
def test_slurms_word_and_the_folders(state, said, expected):
    found, why = queue.Job(state).judge(said, "")
    assert found == expected and (expected != "killed" or state in why)


def test_ranks_find_each_other_through_slurms_variables(tmp_path):
    job = {"SLURM_NTASKS": "4", "SLURM_JOB_ID": "17", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}
    first = job | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    other = job | {"SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
    join(first, tmp_path)
    join(other, tmp_path)
    assert (other["RANK"], other["LOCAL_RANK"], other["WORLD_SIZE"]) == ("3", "1", "4")
    assert other["MASTER_ADDR"] == "10.0.0.7" and other["MASTER_PORT"] == first["MASTER_PORT"]
    alone = {"SLURM_NTASKS": "1"}
    join(alone, tmp_path)
    assert "RANK" not in alone


def test_sbatch_is_asked_for_what_the_launcher_says(tmp_path, monkeypatch):
    """submitit's own text, through a pretended sbatch that keeps it."""
    count = 'echo >> "$0.count"; echo "Submitted batch job $(wc -l < "$0.count")"'
    for name, does in (("sbatch", count), ("srun", ""), ("scontrol", "echo MaxArraySize = 2")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    sweep = SweepFolder(tmp_path / "sweep of mine")
    sweep.path.mkdir()
    lines = [{"point": n, "attempt": 1, "launcher": "slurm", "overrides": [], "folder": str(n)} for n in range(3)]
    asked = LAUNCHER | {"partition": "gpu", "gpus": 4, "nodes": 2, "memory": 1.5, "sbatch": {"reservation": "mine"}}
    done = slurm.submit(sweep, lines, asked | {"setup": ["module load cuda"], "parallel": 1, "env": {"A": "b c"}})
    assert [line["job"] for line in done] == ["1_0", "1_1", "2"]  # two arrays, the second of one job
    text = "".join(path.read_text() for path in sweep.slurm.glob("*.sh"))
    for part in ("partition=gpu", "gpus-per-node=4", "nodes=2", "ntasks-per-node=4", "mem=1536M", "reservation=mine"):
        assert f"#SBATCH --{part}" in text, text
    for part in ("%1", "module load cuda", "export A='b c'", "trap '' USR2", "USR2@120", "PYTHONSAFEPATH=1"):
        assert part in text, text
    assert sweep.latest()[2]["job"] == "2"


def test_sbatchs_refusal_is_one_line(tmp_path, monkeypatch):
    says = (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition"
    )
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\necho '{says}' >&2\nexit 1\n")
    for name in ("srun", "scontrol"):
        (tmp_path / name).write_text("#!/bin/sh\n")
    for name in ("sbatch", "srun", "scontrol"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    line = {"point": 0, "attempt": 1, "launcher": "slurm", "overrides": [], "folder": "0"}
    with pytest.raises(UserError, match="sbatch refused: invalid partition specified: x") as refused:
        slurm.submit(SweepFolder(tmp_path / "s"), [line], LAUNCHER)
    assert "nothing was submitted" in str(refused.value) and "\n" not in str(refused.value)


def test_the_snapshot_is_what_the_job_imports(tmp_path):
    snapshot.take(tmp_path / "code")
    env = snapshot.environment(tmp_path / "code", str(tmp_path))
    code = "import vmamba, vmamba_ops, vmamba_tasks; print(vmamba.__file__, vmamba_ops.__file__, vmamba_tasks.__file__)"
    words = [sys.executable, "-c", code]
    here = Path(__file__).parents[2]
    done = subprocess.run(words, cwd=here, env=os.environ | env, capture_output=True, text=True)
    assert all(path.startswith(str(tmp_path)) for path in done.stdout.split()), done.stdout + done.stderr
    assert (tmp_path / "code" / "conf" / "config.yaml").is_file()


def test_a_sweep_whose_process_is_gone_says_so(tmp_path):
    sweep = SweepFolder(tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    for number, state in enumerate(("queued", "running", "finished")):
        run = RunFolder(tmp_path / str(number)).create()
        run.write_status("running")
        run.write_status(state)
        status = json.loads(run.status.read_text()) | {"pid": ended.pid}
        run.status.write_text(json.dumps(status))
        line = {"point": number, "attempt": 1, "launcher": "subprocess", "job": f"{ended.pid}.{number}"}
        sweep.submitted([line | {"overrides": [], "folder": str(number), "log": f"logs/{number}.log"}])
    assert [point.state for point in points(tmp_path)] == ["killed", "killed", "finished"]


@pytest.mark.parametrize(
    ("error", "there", "pool_there", "state"),
    [
        (LOST, False, True, "running"),  # the feeder was faster than the pool
        ("interrupted", True, True, "running"),  # saved, and delivering its last records
        ("interrupted", False, True, "killed"),
        (LOST, False, False, "killed"),
    ],
)
def test_a_point_on_its_way_back_to_the_queue_has_not_ended(error, there, pool_there, state, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "0").create()
    run.status.write_text(json.dumps({"state": "killed", "error": error, "pid": os.getpid() if there else 4194399}))
    line = {"point": 0, "attempt": 1, "launcher": "subprocess", "job": "1.0", "overrides": [], "folder": "0"}
    SweepFolder(tmp_path).submitted([line | {"log": "logs/0.log"}])
    monkeypatch.setattr(pool, "alive", lambda job: pool_there)
    assert points(tmp_path)[0].state == state


def test_ctrl_c_while_the_engine_does_not_listen_is_no_fault_of_the_point(tmp_path, monkeypatch):
    def interrupted(*_):
        run.write_status("failed", error="KeyboardInterrupt: ")
        raise KeyboardInterrupt

    run = RunFolder(tmp_path / "0").create()
    run.overrides.write_text("[]")
    monkeypatch.setattr("vmamba.job.start", interrupted)
    monkeypatch.setattr(local, "load", lambda path: None)
    with pytest.raises(SystemExit) as left:
        local.run(SweepFolder(tmp_path), [{"point": 0, "overrides": [], "folder": "0"}])
    assert left.value.code == 130 and run.read_status()["state"] == "killed"


def test_a_signal_while_the_job_starts_is_kept_for_the_loop():
    code = (
        "import os, signal; from vmamba.engine.signals import hold, Signals; hold();"
        "os.kill(os.getpid(), signal.SIGUSR2); os.kill(os.getpid(), signal.SIGTERM)\n"
        "with Signals() as s: os.kill(os.getpid(), signal.SIGTERM); print(s.received)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(int(signal.SIGUSR2)), done.stderr
