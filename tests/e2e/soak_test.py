"""Sixteen streaming clients that leave when they like: no page is lost, nothing hangs, memory stays flat.

THERMOCLINE_SOAK_SECONDS says for how long; `make soak` takes a minute.
"""

import json
import os
import pathlib
import random
import threading
import time

import httpx

SECONDS = float(os.environ.get("THERMOCLINE_SOAK_SECONDS", "10"))
CLIENTS = 16


def rss_bytes(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


class Client(threading.Thread):
    def __init__(self, server, seed, end):
        super().__init__()
        self.server, self.chance, self.end = server, random.Random(seed), end
        self.num_whole = self.num_left = 0
        self.wrong = []

    def run(self):
        while time.monotonic() < self.end:
            try:
                self.one_request()
            except Exception as error:  # the test names it; the others go on
                self.wrong.append(repr(error))
                return

    def one_request(self):
        words = ["river", "stone", "lamp", "harbour", "winter", "letter"]
        prompt = " ".join(self.chance.choices(words, k=self.chance.randrange(1, 300)))
        max_tokens = self.chance.randrange(1, 60)
        leaves_after = self.chance.randrange(0, 40) if self.chance.random() < 0.5 else None
        body = {"model": "smol", "prompt": prompt, "max_tokens": max_tokens, "stream": True, "ignore_eos": True,
                "n": self.chance.choice([1, 1, 1, 2]), "stream_options": {"include_usage": True}}
        usage = None
        with httpx.Client(base_url=self.server.url, timeout=60) as http:
            with http.stream("POST", "/v1/completions", json=body) as response:
                assert response.status_code == 200, response.read()
                for number, line in enumerate(response.iter_lines()):
                    if leaves_after is not None and number >= leaves_after:
                        self.num_left += 1
                        return  # closes the connection
                    if line.startswith("data: {"):
                        event = json.loads(line[6:])
                        assert "error" not in event, event
                        usage = event.get("usage") or usage
        assert usage["completion_tokens"] == max_tokens * body["n"], (usage, body)
        self.num_whole += 1


def test_clients_come_and_go_and_nothing_is_lost(start_server):
    server = start_server("--max-num-seqs", "8")
    rss_idle = rss_bytes(server)
    begin = time.monotonic()
    clients = [Client(server, seed, begin + SECONDS) for seed in range(CLIENTS)]
    for client in clients:
        client.start()
    samples = []
    while time.monotonic() < begin + SECONDS:
        time.sleep(1)
        samples.append(rss_bytes(server))
    rss_half = samples[len(samples) // 2]
    for client in clients:
        client.join(timeout=SECONDS + 120)
        assert not client.is_alive(), "a client hangs"
    assert [client.wrong for client in clients if client.wrong] == []
    load = server.wait_for_load(lambda load: load["num_running"] == 0 and load["num_waiting"] == 0)
    server.assert_no_page_is_lost()
    rss_end = rss_bytes(server)
    num_whole = sum(client.num_whole for client in clients)
    num_left = sum(client.num_left for client in clients)
    print(f"{SECONDS:.0f} s: {num_whole} whole, {num_left} left early, memory {rss_idle >> 20} MiB idle, "
          f"{rss_half >> 20} MiB at half time, {rss_end >> 20} MiB at the end, {load}")
    assert num_whole > 0 and num_left > 0
    # The arena's pages become resident when they are first used, 128 MiB in all; nothing else may grow.
    assert rss_end - rss_idle < (128 + 32) << 20
    if SECONDS >= 60:
        assert rss_end - rss_half < 16 << 20
