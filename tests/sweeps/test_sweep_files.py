"""Every point of every file in ``sweeps/`` composes and is valid; files combine, and are found from anywhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from vmamba.config.compose import check_axes, choices, compose, first_point
from vmamba.config.errors import UserError
from vmamba.config.paths import PACKAGE
from vmamba.config.points import expand

ROOT = PACKAGE.parent
FILES = sorted(ROOT.glob("sweeps/*/*.yaml"))
IDS = [f"{path.parent.name}={path.stem}" for path in FILES]


def points(path: Path, *words: str) -> list[list[str]]:
    sweeper = yaml.safe_load(path.read_text())["hydra"]["sweeper"]
    params = {key: str(value) for key, value in sweeper.get("params", {}).items()}
    if "search" in yaml.safe_load(path.read_text()):  # intervals: a point at both ends of all
        ends = [first_point([*(f"{key}={ends}" for key, ends in params.items())]), _upper_ends(params)]
        return [[f"{path.parent.name}={path.stem}", *words, *point] for point in ends]
    return expand(params, sweeper.get("points", []), [f"{path.parent.name}={path.stem}", *words])


def _upper_ends(params: dict[str, str]) -> list[str]:
    parsed = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return [f"{override.get_key_element()}={override.value().end}" for override in parsed]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_every_point_is_a_valid_run_of_its_own(path):
    runs = [compose(overrides, cuda=False)[0] for overrides in points(path)]
    assert len(runs) > 1
    assert all(left != right for at, left in enumerate(runs) for right in runs[:at]), "two points are the same run"


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_the_head_says_command_what_varies_and_what_it_costs(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert head[0] == "# @package _global_" and head[1].startswith(f"# python -m vmamba.run {path.parent.name}=")
    text = " ".join(head)
    for part in (f"{path.parent.name}={path.stem}", "Varies:", "Held:", "Cost:"):
        assert part in text
    if path.parent.name == "ablation":
        assert "Reported" in text and f"{len(points(path))} runs" in text
    assert yaml.safe_load(path.read_text())["hydra"]["mode"] == "MULTIRUN"


@pytest.mark.parametrize("name", ["d_state", "ratios", "paper", "paper_steps", "init"])
def test_a_published_experiment_takes_the_ablation(name):
    path = ROOT / "sweeps" / "ablation" / f"{name}.yaml"
    for overrides in points(path, "experiment=imagenet_tiny", "data.root=/data")[:3]:
        run, _ = compose(overrides)
        assert (run.data.name, run.model.name, run.recipe.epochs) == ("imagenet", "vmamba_tiny_s1l8", 300)
        assert list(run.model.dims) == [96, 192, 384, 768]


@pytest.mark.parametrize(
    ("params", "lines", "words", "expected"),
    [
        ({"a": "1,2"}, [], ["b=3"], ["a=1 b=3", "a=2 b=3"]),
        ({"a": "1,2"}, [], ["a=5,6", "c=7,8"], ["a=5 c=7", "a=5 c=8", "a=6 c=7", "a=6 c=8"]),
        ({"s": "0,1"}, ["a=1 b=[1,2]", "a=2"], [], ["a=1 b=[1,2] s=0", "a=1 b=[1,2] s=1", "a=2 s=0", "a=2 s=1"]),
        ({}, ["a=1 b=1", "a=1 b=2"], ["b=9"], ["a=1 b=9"]),
        ({}, ["a=1 b=1"], ["c=range(3)"], ["a=1 b=1 c=0", "a=1 b=1 c=1", "a=1 b=1 c=2"]),
        ({}, [], ["norm=glob(ln*)", "a=1"], ["norm=ln a=1", "norm=ln2d a=1"]),
        ({}, [], [], [""]),
    ],
)
def test_grid_list_and_command_line_make_the_points(params, lines, words, expected):
    assert [" ".join(run) for run in expand(params, lines, words)] == expected


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["ablation=norm,init"], "takes one file"),
        (["ablation=norm", "ablation=init"], "ablation=norm ablation=init: takes one file"),
        (["ablation=nrm"], "Did you mean 'norm'?"),
        (["sweep=seed"], "Did you mean 'seeds'?"),
        (["norm=glob(x*)"], r"fits no file; choose from: bn, ln, ln2d"),
        (["seed=glob(*)"], r"fits no file; choose from: files of a group, as in norm=glob\(ln\*\)"),
    ],
)
def test_a_mistake_gets_one_line(words, part):
    with pytest.raises(UserError, match=part) as refused:
        compose(first_point(words))
    assert "\n" not in str(refused.value)


def test_an_interval_is_for_a_search_alone():
    with pytest.raises(UserError, match="separate values"):
        check_axes(["seed=interval(0,1)"])
    assert first_point(["seed=int(interval(3,9))"]) == ["seed=3"]
    assert first_point(["norm=glob(ln*)"]) == ["norm=ln"]


def run(cwd: Path, *words: str) -> str:
    """What Hydra makes of the words in a folder: the sweeper's part of its configuration."""
    command = [sys.executable, "-m", "vmamba.run", *words, "--cfg", "hydra", "-p", "hydra.sweeper"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_are_found_from_a_sub_folder_and_combine():
    config = yaml.safe_load(run(ROOT / "tests" / "golden", "ablation=norm", "sweep=seeds"))
    assert config["params"] == {"norm": "ln,ln2d,bn", "seed": "0,1,2"}


def test_a_project_of_its_own_has_its_files_and_ours(tmp_path, monkeypatch):
    mine = tmp_path / "sweeps" / "ablation"
    mine.mkdir(parents=True)
    head = "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {"
    (mine / "width.yaml").write_text(f"{head}model.ssm_ratio: '1.0,2.0'}}}}}}\n")
    (mine / "norm.yaml").write_text(f"{head}norm: 'ln,bn'}}}}}}\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert "model.ssm_ratio: 1.0,2.0" in run(below, "ablation=width")
    assert "norm: ln,bn" in run(below, "ablation=norm")
    assert "model.init: v0,v1,v2" in run(below, "ablation=init")
    monkeypatch.chdir(below)
    assert {"width", "norm", "init"} <= set(choices("ablation"))


def test_the_page_is_what_the_files_say():
    from vmamba.config.tables import sweeps

    assert (ROOT / "docs" / "sweeps.md").read_text() == sweeps()
