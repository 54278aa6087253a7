"""The command, end to end: what a user types, the folder it leaves, and what each mistake costs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vmamba.config.compose import composed

SMOKE = ["debug=smoke", "tracking=none"]


def vmamba(cwd: Path, *words: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "vmamba.run", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, **env})


def only(cwd: Path) -> Path:
    (folder,) = [path for path in (cwd / "outputs").iterdir() if path.is_dir()]
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run of two steps."""
    cwd = tmp_path_factory.mktemp("trained")
    done = vmamba(cwd, *SMOKE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"run folder: {only(cwd)}" in done.stdout
    return only(cwd)


def test_the_run_folder_is_whole(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "overrides.yaml", "manifest.json", "metrics.jsonl", "result.json", "curves.png"} <= names
    assert json.loads((trained / "status.json").read_text())["state"] == "finished"
    result = json.loads((trained / "result.json").read_text())
    assert result["steps"] == 2 and "val/acc1" in result["final"] and result["params"] == 467018
    manifest = json.loads((trained / "manifest.json").read_text())
    assert manifest["op_backend"] == "cpu" or manifest["device"] != "cpu"
    assert manifest["compiled"] == "eager"


def test_evaluating_a_run_folder_needs_nothing_else(trained, tmp_path):
    done = vmamba(tmp_path, "mode=eval", f"ckpt={trained}", "tracking=none", f"outputs={tmp_path}/outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((only(tmp_path) / "result.json").read_text())
    assert result["mode"] == "eval" and 0 <= result["final"]["val/acc1"] <= 100


def test_the_same_run_again_gives_the_same_numbers(trained, tmp_path):
    done = vmamba(tmp_path, "--from", str(trained), f"outputs={tmp_path}/outputs")
    assert done.returncode == 0, done.stdout + done.stderr
    first, again = ((f / "result.json").read_text() for f in (trained, only(tmp_path)))
    assert json.loads(first)["final"]["val/loss"] == json.loads(again)["final"]["val/loss"]


def test_resuming_goes_on_in_the_same_folder(tmp_path):
    assert vmamba(tmp_path, *SMOKE, "resume=never").returncode == 0
    folder = only(tmp_path)
    done = vmamba(tmp_path, "--resume", str(folder), "limit.train_steps=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming from" in done.stdout and only(tmp_path) == folder
    assert json.loads((folder / "result.json").read_text())["steps"] == 4
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and max(steps) == 4
    names = ("config.yaml", "overrides.yaml", "manifest.json", "status.json", "metrics.jsonl", "result.json")
    before = [(folder / name).read_text() for name in names]
    for mistake in ("recipe.optimizer=adamww", "recipe.optimizer=sgd", "model.d_state=2"):  # two while it starts
        done = vmamba(tmp_path, "--resume", str(folder), mistake)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert [(folder / name).read_text() for name in names] == before, mistake
    (folder / "run.log").unlink()
    (folder / "run.log").mkdir()
    done = vmamba(tmp_path, "--resume", str(folder))
    assert done.returncode == 2 and "--from makes a new run of it" in done.stderr and "Traceback" not in done.stderr


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path):
    wanted = f"{tmp_path}/run-2026-11-27_12-00-00"
    command = [
        sys.executable,
        "-c",
        f"from vmamba.config.paths import unused; print(*(unused({wanted!r}) for _ in '12'))",
    ]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    assert found == [[wanted] * 2, [f"{wanted}-2"] * 2, [f"{wanted}-3"] * 2]


def test_other_ranks_take_the_folder_from_rank_0(trained, tmp_path, monkeypatch):
    """Also where a saved run is run again: none of them makes a folder or writes a log."""
    from vmamba import job
    from vmamba import run as command

    asked = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(job, "start", lambda cfg, path, overrides: asked.append(path))
    before = (trained / "run.log").read_bytes()
    for flag in ("--from", "--resume"):
        command._again(flag, trained, [f"outputs={tmp_path}/outputs"])
    assert asked == [None, None] and not list(tmp_path.glob("outputs/*"))
    assert (trained / "run.log").read_bytes() == before


MISTAKES = {
    "no data set": (["data=imagenet"], "data.root is missing", "image-net.org"),
    "wrong layout": (["data=imagenet", "data.root={tmp}"], "no train", "<root>/train/<class>/<image>"),
    "no checkpoint": (["mode=eval", "ckpt={tmp}/none.pt"], "no such file or run folder", "ckpt="),
    "no run folder": (["--resume", "{tmp}/none"], "no such file", "run folder"),
    "an unknown flag": (["--form", "outputs/x"], "--form: there is no such flag", "--from"),
    "an unknown command": (["trak", "ui"], "trak: neither key=value nor a command", "'track'"),
    "no place for runs": (["outputs=/proc/none"], "outputs=/proc/none", "give another folder"),
    "a sweep without -m": (["model.d_state=1,2"], "model.d_state=1,2", "add -m"),
    "a search without trials": (["sweep=search", "search.trials=0"], "an interval is for a search", "search.trials=20"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_costs_one_line_and_leaves_nothing(case, tmp_path):
    words, *parts = MISTAKES[case]
    done = vmamba(tmp_path, *(word.format(tmp=tmp_path) for word in words))
    assert done.returncode == 2, done.stdout + done.stderr
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert len(lines) == 1, lines
    assert all(part in lines[0] for part in parts), lines
    assert not list(tmp_path.glob("outputs/*"))


def test_a_checkpoint_of_another_model_is_named(trained, tmp_path):
    ckpt = f"ckpt={trained}/checkpoints/best.pt"
    done = vmamba(tmp_path, "mode=eval", "model=tiny", "data=digits", "tracking=none", ckpt)
    assert done.returncode == 2
    line = next(text for text in done.stdout.splitlines() if " E " in text)
    assert "not a checkpoint of this model" in line and "model=nano" in line


def test_two_processes_share_one_folder(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "-m", "vmamba.run", *SMOKE], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((only(tmp_path) / "manifest.json").read_text())["world_size"] == 2


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def _swallow(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise AttributeError("half a module") from None


@pytest.mark.parametrize(("where", "how"), [("build_task", _interrupt), ("build_task", _swallow), ("run", _interrupt)])
def test_ctrl_c_while_the_engine_does_not_listen(where, how, tmp_path, monkeypatch, capsys):
    from vmamba import run as command
    from vmamba.engine import fit

    monkeypatch.setattr(fit, where, how)
    monkeypatch.setattr(command, "_hydra_main", lambda: command._go(composed(SMOKE), tmp_path / "run", SMOKE))
    monkeypatch.setattr(sys, "argv", ["vmamba", *SMOKE, f"outputs={tmp_path}"])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 130
    status = tmp_path / "run" / "status.json"
    assert not status.is_file() if where == "build_task" else json.loads(status.read_text())["state"] == "killed"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert (capsys.readouterr().err == "vmamba: interrupted\n") is (where == "build_task")
