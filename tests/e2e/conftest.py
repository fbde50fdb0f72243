"""One server for a test file, on a free port, and ways to talk to it."""

import os
import pathlib
import signal
import socket
import subprocess
import threading

import httpx
import openai
import pytest

BINARY = pathlib.Path(os.environ["THERMOCLINE_BUILD"]) / "thermocline"
MODEL = os.environ["THERMOCLINE_MODEL"]
START_TIMEOUT = 120  # of a sanitizer build on a busy machine


class Server:
    """A running `thermocline serve`. Its log is kept for messages of failed tests."""

    def __init__(self, *flags, model=MODEL, port=0):
        command = [str(BINARY), "serve", str(model), "--port", str(port), "--served-model-name", "smol", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._log = []
        self._log_thread = threading.Thread(target=lambda: self._log.extend(self.process.stderr))
        self._log_thread.start()
        watchdog = threading.Timer(START_TIMEOUT, self.process.kill)
        watchdog.start()
        line = self.process.stdout.readline()  # printed once it listens
        watchdog.cancel()
        if not line.startswith("Serving on "):
            self.process.wait()
            raise RuntimeError(f"the server did not start: {self.log()}")
        self.url = line.split()[-1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def log(self):
        self._log_thread.join(timeout=0 if self.process.poll() is None else None)
        return "".join(self._log)

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait(self, timeout=60):
        code = self.process.wait(timeout)
        self.process.stdout.close()
        self._log_thread.join()
        self.process.stderr.close()
        return code

    def stop(self):
        if self.process.poll() is None:
            self.signal()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.wait()
            raise

    def get(self, path):
        return httpx.get(self.url + path, timeout=30)

    def post(self, path, body, **more):
        return httpx.post(self.url + path, json=body, timeout=120, **more)

    def load(self):
        return self.get("/load").json()

    def wait_for_load(self, condition, timeout=60):
        """Until /load fulfils `condition`; each look is a round trip."""
        found = {}

        def look():
            with httpx.Client(base_url=self.url, timeout=30) as client:
                while not done.is_set():
                    found.update(client.get("/load").json())
                    if condition(found):
                        return True
                    done.wait(0.02)
            return condition(found)

        done = threading.Event()
        timer = threading.Timer(timeout, done.set)
        timer.start()
        try:
            assert look(), found
        finally:
            timer.cancel()
        return found

    def assert_no_page_is_lost(self):
        """Of an idle server: every place of the arena is free or a cached page's, whatever has cooled."""
        for _ in range(500):  # copies that were in work when the last request ended
            kv = self.get("/v1/kv").json()
            if kv["moves"]["in_flight"] == 0:
                break
        load = self.load()
        assert kv["moves"]["in_flight"] == 0 and kv["sequences"] == [], kv
        assert sum(tier["pages"] for tier in kv["tiers"].values()) == load["num_cached_pages"], (kv, load)
        used = sum(tier["bytes"] for tier in kv["tiers"].values())
        assert used + kv["arena"]["free_bytes"] == kv["arena"]["bytes"], kv

    def client(self):
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0, timeout=120)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@pytest.fixture(scope="module")
def server():
    running = Server("--max-model-len", "2048", "--kv-cache-memory-bytes", "256M")
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture(scope="module")
def client(server):
    return server.client()


@pytest.fixture
def start_server():
    """Starts servers with flags of a test's own, and stops them after it."""
    started = []

    def start(*flags, **more):
        for default in (("--max-model-len", "2048"), ("--kv-cache-memory-bytes", "128M")):
            if default[0] not in flags:
                flags = (*default, *flags)
        started.append(Server(*flags, **more))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.stop()
