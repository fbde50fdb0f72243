"""A server that has never seen its model answers at once, and measures the model while nobody asks."""

import re
import subprocess
import time

import pytest
from conftest import BINARY, MODEL, Server

# A calibration text of six pages, the shortest in which one cools: seconds, where the whole takes a minute.
SHORT = ("--max-model-len", "448")
QUESTION = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0, "kv_fidelity": "exact"}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "calibration"


@pytest.fixture
def start(folder):
    """Starts servers that calibrate, and stops them after the test."""
    started = []

    def start(*flags, calibration_dir=folder):
        started.append(Server("--kv-cache-memory-bytes", "256M", "--calibrate", "--calibration-dir",
                              str(calibration_dir), *flags))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop()


def calibration(server):
    return server.get("/v1/kv").json()["calibration"]


def answer(server):
    response = server.post("/v1/completions", QUESTION)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["text"]


def wait_until_done(server):
    while (state := calibration(server)["state"]) in ("measuring", "switching"):
        time.sleep(0.05)
    assert state == "done", server.log()


def test_the_first_answer_does_not_wait_for_calibration(start, folder):
    server = start()
    begun = calibration(server)
    assert begun["state"] == "measuring" and begun["formats"] == "safe" and begun["cold_kl"] is None
    assert not list(folder.glob("*.bin"))
    assert answer(server)
    assert server.stop() == 0
    assert "calibrating while idle" in server.log()


def test_it_is_measured_once_and_in_force_at_the_next_start(start, folder):
    first = start(*SHORT)
    before = answer(first)
    wait_until_done(first)
    assert answer(first) == before
    now = calibration(first)
    assert now["formats"] == "calibrated" and now["fraction"] == 1 and now["cold_kl"] > 0
    assert first.stop() == 0
    assert re.search(r"calibrated: cold pages [0-9.]+x smaller", first.log())
    (kept,) = folder.iterdir()
    bytes_kept = kept.read_bytes()
    second = start(*SHORT)
    assert calibration(second) == now
    assert answer(second) == before
    assert second.stop() == 0
    assert "calibrating" not in second.log()
    assert kept.read_bytes() == bytes_kept


def test_what_is_saved_before_it_ends_is_restored_whole_after_it(start, folder, tmp_path):
    flags = (*SHORT, "--kv-policy", "cold", "--kv-store-dir", str(tmp_path / "kv"))
    first = start(*flags)
    prompt = " ".join(f"Item {i} of the list." for i in range(50))
    body = {"prompt": prompt, "max_tokens": 8, "temperature": 0, "session_id": "list"}
    assert first.post("/v1/completions", body).status_code == 200
    saved = first.post("/v1/kv/sessions/list/save", {}).json()
    assert saved["saved_tokens"] >= 5 * 64
    wait_until_done(first)
    assert first.stop() == 0
    second = start(*flags)
    assert calibration(second)["formats"] == "calibrated"
    restored = second.post("/v1/kv/sessions/list/restore", {}).json()
    assert restored["restored_tokens"] == saved["saved_tokens"]
    usage = second.post("/v1/completions", body).json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= saved["saved_tokens"] - 64


def test_a_budget_and_a_policy_without_tiers_start_at_once_too(start):
    budget = start(*SHORT, "--kv-budget", "0.25")
    assert answer(budget)
    wait_until_done(budget)
    hot = start(*SHORT, "--kv-policy", "hot")
    assert calibration(hot) == {"state": "not_needed", "fraction": 0, "formats": None, "cold_kl": None}


def test_it_can_be_left_out(start):
    server = start(*SHORT, "--no-calibrate")
    assert calibration(server)["state"] == "off" and calibration(server)["formats"] == "safe"
    assert "thermocline_kv_calibrated{model_name=\"smol\"} 0\n" in server.get("/metrics").text


def test_the_command_measures_now_and_says_so_in_a_log(folder):
    command = [BINARY, "calibrate", MODEL, *SHORT, "--calibration-dir", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "loading: calibration" in done.stderr
    assert done.stdout.startswith("layer ") and "all pages cold" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout and "loading: calibration" not in again.stderr


def test_a_folder_that_cannot_be_written_costs_the_keeping_alone(start, tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    server = start(*SHORT, calibration_dir=file)
    assert answer(server)
    wait_until_done(server)
    assert server.stop() == 0
    assert "not kept: cannot write" in server.log()
