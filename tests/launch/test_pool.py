"""``launcher=subprocess``: which point gets which GPUs, with a stand-in for the process of a point."""

import json
import sys

import pytest

from vmamba.config import rules
from vmamba.config.compose import compose
from vmamba.launch import pool
from vmamba.launch.folder import SweepFolder
from vmamba.launch.settings import plain
from vmamba.tracking.folder import LOST, RunFolder

LAUNCHER = plain(compose(["launcher=subprocess"])[0].launcher)
POINT = """#!/bin/sh
for folder; do :; done
echo "$CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS $*" >"$folder/given"
mkdir "{root}/gpu-$CUDA_VISIBLE_DEVICES" || echo taken >"$folder/twice"
sleep 0.4
rmdir "{root}/gpu-$CUDA_VISIBLE_DEVICES"
echo '{{"state": "finished"}}' >"$folder/status.json"
"""


def run(root, monkeypatch, points: int, count: int, **settings) -> list[str]:
    """What each point was given, in a sweep over ``count`` GPUs."""
    python = root / "python"
    python.write_text(POINT.format(root=root))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(rules, "cuda_devices", lambda: count)
    monkeypatch.setattr(pool.report, "write_at_end", lambda sweep: None)
    monkeypatch.setattr(pool.signal, "signal", lambda *_: None)
    sweep = SweepFolder(root)
    lines = [
        {"point": number, "attempt": 1, "folder": str(number), "log": f"logs/{number}.log"} for number in range(points)
    ]
    for line in lines:
        RunFolder(root / line["folder"]).create().write_status("queued")
    pool.Pool(sweep, lines, LAUNCHER | settings).run()
    assert not list(root.glob("*/twice")), "two points had the same GPU at the same time"
    return [(root / line["folder"] / "given").read_text().strip() for line in lines]


@pytest.mark.parametrize(
    ("visible", "count", "settings", "expected"),
    [
        (None, 2, {}, {"0", "1"}),
        ("3,5", 2, {}, {"3", "5"}),
        (None, 4, {"gpus": 2}, {"0,1", "2,3"}),
    ],
)
def test_every_point_has_gpus_of_its_own(tmp_path, monkeypatch, visible, count, settings, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given = run(tmp_path, monkeypatch, 5, count, **settings)
    assert {line.split()[0] for line in given} == expected
    several = settings.get("gpus", 1) > 1
    assert all((f"--nproc-per-node {settings.get('gpus')}" in line) == several for line in given)
    assert all("vmamba.launch.worker" in line and int(line.split()[1]) >= 1 for line in given)


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 1"])  # of a process alone, and of torchrun one of whose was killed
def test_a_killed_point_comes_back_though_its_feeder_has_noted_the_end(end, tmp_path, monkeypatch):
    noted = json.dumps({"state": "killed", "error": LOST})
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nfor folder; do :; done\nif [ ! -e "$folder/once" ]; then\n  touch "$folder/once"\n'
        f"  echo '{noted}' >$folder/status.json\n  {end}\nfi\n"
        'echo \'{"state": "finished"}\' >"$folder/status.json"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setattr(pool.report, "write_at_end", lambda sweep: None)
    monkeypatch.setattr(pool.signal, "signal", lambda *_: None)
    folder = RunFolder(tmp_path / "0").create()
    folder.write_status("queued")
    line = {"point": 0, "attempt": 1, "folder": "0", "log": "logs/0.log"}
    pool.Pool(SweepFolder(tmp_path), [line], LAUNCHER).run()
    assert folder.read_status()["state"] == "finished"
