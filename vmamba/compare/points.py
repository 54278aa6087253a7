"""The runs to compare, read from their folders: what each was asked to do, how it ended and what it measured."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from vmamba.config.errors import UserError
from vmamba.launch.folder import SweepFolder
from vmamba.launch.points import points as standing
from vmamba.tracking.atomic import read_json
from vmamba.tracking.describe import flat
from vmamba.tracking.folder import RunFolder
from vmamba.tracking.series import best

CKPT = "ckpt"
EVALUATED = (CKPT, "data.root")  # these say what an evaluation is of, and nothing of a training run
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C one is ten times as fast, where PyYAML has it
# entries of result.json, and what one of them is divided by to be read
MEASURES = {
    "images_per_s": 1.0,
    "params": 1e6,
    "gflops": 1.0,
    "gpu_peak_gib": 1.0,
    "rss_peak_gib": 1.0,
    "seconds": 1.0,
}


@dataclass
class Point:
    """One run. ``config``: its resolved configuration with dotted keys; ``asked``: its overrides, key to value."""

    name: str
    folder: RunFolder
    config: dict
    asked: dict[str, str]
    state: str  # of RunFolder's status, or "absent" where nothing has been written yet
    error: str = ""
    note: str = ""  # what else there is to say of the state: "preempted 2x"
    log: Path | None = None  # what its job printed, where that is known
    judged: bool = False  # the state is its launcher's word too
    result: dict = field(default_factory=dict)
    uneven: set[str] = field(default_factory=set)  # keys that not all runs were asked for, or not in the same words

    @property
    def metric(self) -> str:
        """What "best" means for this run, "val/acc1"."""
        return str(self.result.get("metric") or self.config.get("task.metric") or "val/acc1")

    def higher_is_better(self, metric: str) -> bool:
        """As the task says of its own metric; of others, all but losses."""
        if metric == self.metric:
            return bool(self.config.get("task.higher_is_better", True))
        return "loss" not in metric

    @property
    def standing(self) -> str:
        """The state in words."""
        return f"{self.state}, {self.note}" if self.note else self.state

    def score(self, metric: str) -> float | None:
        """The run's best evaluation of ``metric`` (its final one where another metric chose the best checkpoint)."""
        for group in ("best", "final"):
            value = (self.result.get(group) or {}).get(metric)
            if isinstance(value, int | float):
                return float(value)
        return None

    def so_far(self, metric: str) -> float | None:
        """The best of ``metric`` up to now, of a run that has not finished."""
        return None if self.state == "finished" else best(self.folder.metrics, metric, self.higher_is_better(metric))

    @cached_property
    def measures(self) -> dict[str, float]:
        """Of ``MEASURES`` those that were recorded, parameters in millions."""
        found = {name: self.result.get(name) for name in MEASURES}
        return {name: value / MEASURES[name] for name, value in found.items() if isinstance(value, int | float)}

    @property
    def evaluates(self) -> bool:
        """Whether it trained nothing."""
        return self.config.get("mode") == "eval"

    @property
    def of_folder(self) -> bool:
        """Whether it evaluated what lies in a run folder, and not a file that it was given."""
        return Path(self.result.get(CKPT, "")).name != Path(str(self.config.get(CKPT))).name

    def value(self, key: str) -> str:
        """What this run has for the override ``key``: as asked, if all were, else as its configuration says."""
        if key in EVALUATED and not self.evaluates:
            return "–"
        if key in self.asked and key not in self.uneven:
            return self.asked[key]
        for name in (key, f"{key}.name", f"{key}.backend"):
            if name in self.config:
                return _text(self.config[name])
        return self.asked.get(key, "(default)")


def collect(paths: Iterable[Path]) -> tuple[list[Point], list[str]]:
    """The runs of sweep folders and run folders, in order, and a line for whatever could not be had.

    UserError, with the first of these lines, if there is no run at all.
    """
    found: list[Point] = []
    remarks: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            remarks.append(f"{path}: no such folder; name a sweep folder or run folders, e.g. outputs/sweep-NAME-DATE")
        elif is_sweep(path):
            runs, said = _of_sweep(SweepFolder(path))
            found, remarks = found + runs, remarks + said
        elif runs := [path] if is_run(path) else _runs_of(path):
            found += map(read, runs)
        else:
            remarks.append(
                f"{path}: neither a run folder nor a sweep folder (no config.yaml in it, nor one level down)"
            )
    if not found:
        raise UserError(remarks[0] if remarks else "name a sweep folder or run folders; see --help")
    _even(found)
    return found, remarks


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / "config.yaml").is_file() or (path / "status.json").is_file()


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's that was submitted."""
    return SweepFolder(path).jobs.is_file()


def read(path: Path) -> Point:
    """One run folder as a point; files not there yet count as empty, an unreadable one is named in ``error``."""
    folder = RunFolder(path)
    status = folder.read_status()
    point = Point(folder.name, folder, {}, {}, status.get("state", "absent"), status.get("error", ""))
    try:
        point.config = flat(_load(folder.config) or {})
        point.asked = dict(split(word) for word in _load(folder.overrides) or [])
        point.result = read_json(folder.result)
    except (yaml.YAMLError, ValueError, TypeError, UserError) as error:
        point.error = f"{path}: not readable ({str(error).splitlines()[0]})"
    return point


def _of_sweep(sweep: SweepFolder) -> tuple[list[Point], list[str]]:
    """The points of a sweep; where its launcher can be asked, it has a say in how they stand."""
    found = {number: read(sweep.run(line).path) for number, line in sweep.latest().items()}
    try:
        rows = standing(sweep.path)
    except UserError as reason:
        return list(found.values()), [f"{sweep.path.name}: states by the run folders alone: {reason}"]
    for row in rows:
        point = found[row.number]
        point.judged, point.state, point.note = True, row.state, row.words().removeprefix(row.state).lstrip(", ")
        point.log = row.log if row.log.is_file() else None
        if row.broken:
            point.error = point.error or row.last
    return list(found.values()), []


def _even(points: list[Point]) -> None:
    """What only some runs were asked for is compared by the configurations, where that is "vmamba_nano" for all of them
    and not "nano" for those that were asked for it. So is a setting of one value in several spellings: 1e-3, 0.001."""
    keys = {key for point in points for key in point.asked}
    uneven = {key for key in keys if not all(key in point.asked for point in points)}
    uneven |= {key for key in keys - uneven if _spellings(points, key)}
    for point in points:
        point.uneven = uneven


def _spellings(points: list[Point], key: str) -> bool:
    """Whether a setting that all were asked for has one value where they were asked for several."""
    pairs = {(_text(point.config[key]), point.asked[key]) for point in points if key in point.config}
    return len({value for value, _ in pairs}) < len(pairs)


def _runs_of(sweep: Path) -> list[Path]:
    inside = [path for path in sweep.iterdir() if path.is_dir() and is_run(path)]
    return sorted(
        inside, key=lambda path: (not path.name.isdigit(), int(path.name) if path.name.isdigit() else 0, path)
    )


def _load(path: Path):
    return yaml.load(path.read_text(encoding="utf-8"), LOADER) if path.is_file() else None


def split(word: str) -> tuple[str, str]:
    """The key and the value of ``key=value``, the value as it is compared."""
    key, _, value = str(word).partition("=")
    with suppress(yaml.YAMLError):  # Hydra's grammar is wider than YAML's: what is not YAML is compared as written
        value = _text(yaml.load(value, LOADER))  # so that [1,2] is the configuration's [1, 2]
    return key.lstrip("+~"), value


def _text(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)
