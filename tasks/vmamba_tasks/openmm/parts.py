"""Building OpenMMLab's objects from plain dicts, in the scope of mmdet or mmseg, without their chatter."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from vmamba_tasks.openmm.tuples import with_tuples


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Inside, types without a prefix are looked for in ``name`` (mmdet, mmseg), and only errors are printed."""
    from vmamba_tasks.openmm import backbones, loading  # noqa: F401  register, and make mmcv.ops importable

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from mmengine.logging import MMLogger
        from mmengine.registry import DefaultScope

        if not MMLogger.check_instance_created("vmamba"):
            MMLogger.get_instance("vmamba", logger_name="openmm", log_level=logging.ERROR)
        with DefaultScope.overwrite_default_scope(name):
            yield


def quiet() -> None:
    """From here on no warnings of OpenMMLab's own code, or of what it calls the old way: a user cannot act on them."""
    warnings.filterwarnings("ignore", module=r"mm(engine|cv|det|seg)\.")
    warnings.filterwarnings("ignore", message="torch.meshgrid: in an upcoming release")


def model(where: str, config: dict) -> Any:
    """The detector or segmentor of a config, with fresh parameters."""
    with scope(where):
        from mmengine.config import ConfigDict
        from mmengine.registry import MODELS

        built = MODELS.build(ConfigDict(with_tuples(config)))
        built.init_weights()
    return built


def dataset(where: str, config: dict) -> Any:
    """The data set of a config, with its pipeline."""
    with scope(where):
        from mmengine.registry import DATASETS

        return DATASETS.build(with_tuples(config))


def metric(where: str, config: dict, meta: dict) -> Any:
    """The metric of a config for a data set with this ``metainfo``."""
    with scope(where):
        from mmengine.registry import METRICS

        built = METRICS.build(with_tuples(config))
    built.dataset_meta = meta
    return built
