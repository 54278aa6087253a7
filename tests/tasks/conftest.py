from importlib.util import find_spec

import pytest
import torch
from dense_trees import ade_tree, coco_tree

if not (find_spec("mmdet") and find_spec("mmseg")):
    collect_ignore_glob = ["test_*.py"]  # the extras det and seg are not installed


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    return coco_tree(tmp_path_factory.mktemp("coco") / "coco")


@pytest.fixture(scope="session")
def ade(tmp_path_factory):
    return ade_tree(tmp_path_factory.mktemp("ade") / "ADEChallengeData2016")
