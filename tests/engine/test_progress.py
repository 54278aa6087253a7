import logging
import re
import sys

from tiny_task import config, train

from vmamba.config.schema import Limit
from vmamba.engine import progress


def test_plain_lines_where_there_is_no_terminal(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(progress.Bar.__init__, "__defaults__", (0.0,))
    with caplog.at_level(logging.INFO, "vmamba"):
        train(config(), tmp_path)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("val/acc1" in line and "val/loss" in line for line in lines) == 2
    shape = r"epoch 1\.8/2  acc [\d.]+  loss [\d.]+  val acc1 [\d.]+  \d+ images/s  ETA 0:00:\d\d"
    assert any(re.fullmatch(shape, line) for line in lines), lines


def test_bar_on_a_terminal_goes_away_and_gives_the_log_back(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    before = [handler.stream for handler in logging.getLogger().handlers if isinstance(handler, logging.StreamHandler)]
    train(config(limit=Limit(train_steps=6)), tmp_path)
    assert before == [h.stream for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    assert "images/s" in capsys.readouterr().err
