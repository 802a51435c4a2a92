"""Cards are given to one process at a time, and are free again when it is gone."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from transformer2 import gpus

HOLD = """
import sys, time
from pathlib import Path
from transformer2.gpus import reserve
print(",".join(reserve(int(sys.argv[1]), Path(sys.argv[2]))), flush=True)
time.sleep(60)
"""


def holder(n: int, folder: Path, visible: str = "0,1,2") -> subprocess.Popen[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", HOLD, str(n), str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


@pytest.mark.slow
def test_processes_share_no_card_and_wait_until_enough_are_free(tmp_path: Path):
    first, second = holder(1, tmp_path), holder(1, tmp_path)
    third = None
    try:
        of_both = {said(first), said(second)}
        assert len(of_both) == 2 and of_both <= {"0", "1", "2"}
        third = holder(2, tmp_path)
        time.sleep(2)
        assert third.poll() is None, "one GPU is free, and it waits for two"
        first.kill()
        assert len(set(said(third).split(",")) - of_both) >= 1
    finally:
        for process in filter(None, (first, second, third)):
            process.kill()
            process.wait()
    fourth = holder(3, tmp_path)
    assert said(fourth) == "0,1,2", "a process that was killed holds nothing"
    fourth.kill()
    fourth.wait()


def test_no_card_hides_all_and_too_many_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(ValueError, match="2 GPUs are asked for, and 1 are there"):
        gpus.reserve(2, tmp_path)
    assert gpus.reserve(0, tmp_path) == [] and os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    assert gpus.visible() == []
