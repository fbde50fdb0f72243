"""The comparison of next-token distributions: hot with itself is nothing, colder pages lose more."""

import json
import os
import pathlib
import subprocess

import pytest

PROGRAM = pathlib.Path(os.environ["THERMOCLINE_BUILD"]) / "kv_quality"
MODEL = os.environ["THERMOCLINE_MODEL"]
PROMPTS = pathlib.Path(__file__).resolve().parent.parent / "data" / "oracle_prompts.txt"
NUM_TOKENS = 512
CALIBRATION = PROGRAM.parent / "tests" / "calibration"  # of this build: what another one measured is no test


@pytest.fixture(scope="module")
def results():
    command = [PROGRAM, MODEL, "--text", PROMPTS, "--tokens", str(NUM_TOKENS)]
    for policy in ("hot", "warm", "cold", "archive"):
        command += ["--flags", f"--kv-policy {policy}"]
    # Where the first engine keeps it, or each of three would measure its own.
    environment = os.environ | {"THERMOCLINE_CALIBRATION_DIR": str(CALIBRATION)}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = run.stdout.splitlines()
    return {line["flags"].split()[-1]: line for line in map(json.loads, lines)}


def mean_loss(result):
    return sum(result["kl"][384:]) / len(result["kl"][384:])


def test_each_position_but_the_last_has_its_values(results):
    assert list(results) == ["hot", "warm", "cold", "archive"]
    for result in results.values():
        assert {len(result[key]) for key in ("kl", "same_top", "nll", "nll_hot")} == {NUM_TOKENS - 1}


def test_hot_is_exactly_hot(results):
    assert max(results["hot"]["kl"]) == 0
    assert results["hot"]["nll"] == results["hot"]["nll_hot"]
    assert results["hot"]["held"] == results["hot"]["held_hot"]


def test_nothing_is_lost_before_the_first_page_cools(results):
    assert max(results["cold"]["kl"][:256]) == 0


def test_colder_pages_lose_more_and_hold_less(results):
    assert 0 < mean_loss(results["warm"]) < 1e-3
    assert mean_loss(results["warm"]) < mean_loss(results["cold"]) < 0.1
    assert mean_loss(results["cold"]) < mean_loss(results["archive"]) < 0.2
    assert results["archive"]["held"][-1] < results["cold"]["held"][-1]
    assert results["cold"]["held"][-1] < results["warm"]["held"][-1] < results["hot"]["held"][-1]
