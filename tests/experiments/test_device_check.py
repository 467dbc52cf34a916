"""The check of a device, on the CPU: every result passes, and both reports are written."""

import json

import pytest

from jaxact.experiments import StudyError, device_check
from jaxact.experiments.device_check import Check, DeviceCheck


def test_a_wrong_result_fails():
    assert Check("gelu", "ulp", 0.5, 3.0).passed
    assert not Check("gelu", "ulp", 3.1, 3.0).passed
    assert not Check("gelu", "ulp", float("nan"), 3.0).passed


def test_bad_values(tmp_path):
    with pytest.raises(StudyError, match="rounds: must be at least 1; got 0"):
        device_check.run(DeviceCheck(rounds=0, out=tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="out: cannot write"):
        device_check.run(DeviceCheck(out=tmp_path / "file" / "folder"))


@pytest.mark.slow
def test_reports(tmp_path, standard_promotion):
    config = DeviceCheck(elements=1000, depth=5, rounds=1, out=tmp_path)
    assert device_check.run(config)
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["checks"]
    assert all(check["value"] <= check["bound"] for check in found)
    assert all(timing["seconds"] > 0 for timing in report["timings"])
    assert (tmp_path / "report.md").read_text().count("passed") == len(found)
