import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small models: threads only wait for each other; and sums have one order in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
