"""What hostile, broken and leaving clients, and signals, do to a running server: nothing bad."""

import concurrent.futures
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess

import httpx
import pytest
from conftest import BINARY, MODEL, Server

LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}


def raw(server, data, half_close=False):
    """Sends bytes as they are; everything that comes back until the server closes."""
    with server.connect() as connection:
        try:
            connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused before all was sent: the answer is there
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := connection.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
        return answer


def post(path, body, headers=b""):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s" % (
        path.encode(),
        len(body),
        headers,
        body,
    )


def close_post(path, body):
    return post(path, body, b"Connection: close\r\n")


@pytest.fixture(autouse=True)
def still_serves(request):
    """After each test that uses the shared server it is idle, whole and without leaked pages."""
    yield
    if "server" in request.fixturenames:
        running = request.getfixturevalue("server")
        running.wait_for_load(lambda l: l["num_running"] + l["num_waiting"] == 0)
        running.assert_no_page_is_lost()
        assert running.get("/health").status_code == 200


@pytest.mark.parametrize(
    "data, status",
    [
        (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 20000 + b"\r\n\r\n", 431),
        (b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 8388609\r\n\r\n", 413),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (close_post("/v1/completions", b'{"prompt":"\xff\xfe"}'), 400),
        (close_post("/v1/completions", b'{"prompt":"\\ud800"}'), 400),
        (close_post("/v1/completions", b"[" * 100000), 400),
        (close_post("/v1/completions", b'{"prompt":"a","n":1,"n":2}'), 400),
        (close_post("/v1/completions", b'{"prompt":"a","temperature":NaN}'), 400),
        (close_post("/v1/completions", b'{"prompt":"a","temperature":1e999}'), 400),
        (close_post("/v1/completions", b'{"prompt":[9223372036854775808]}'), 400),
        (close_post("/v1/completions", b'{"prompt":[-1]}'), 400),
        (close_post("/v1/completions", b""), 400),
        (close_post("/v1/completions", b'{"prompt":[]}'), 400),
        (close_post("/v1/chat/completions", b'{"messages":[{"role":"user"}]}'), 400),
    ],
)
def test_malformed_requests_get_an_error_object(server, data, status):
    answer = raw(server, data)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]["message"]


def test_a_body_of_the_limit_is_read(server):
    body = json.dumps({"prompt": "a", "padding": ""}).encode()
    body = body[:-2] + b"x" * ((8 << 20) - len(body)) + body[-2:]
    assert raw(server, close_post("/tokenize", body)).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_goes_mid_stream_stops_its_request(server):
    with server.connect() as connection:
        connection.sendall(post("/v1/completions", {**LONG, "stream": True}))
        answer = b""
        while answer.count(b"data: ") < 2:
            answer += connection.recv(4096)
    load = server.wait_for_load(lambda l: l["num_running"] == 0)
    before = load["generated_tokens"]
    assert server.load()["generated_tokens"] == before


def test_a_client_that_goes_before_a_whole_answer_stops_its_request(server):
    before = server.load()["generated_tokens"]
    with server.connect() as connection:
        connection.sendall(post("/v1/completions", LONG))
        server.wait_for_load(lambda l: l["num_running"] > 0)
        # A reset, as of a client that was killed.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    load = server.wait_for_load(lambda l: l["num_running"] == 0)
    assert load["generated_tokens"] - before < 1500


def test_many_clients_that_go_leave_nothing(server):
    def stream_and_go(index):
        with server.connect() as connection:
            body = {**LONG, "prompt": f"{index} " * 4, "stream": index % 2 == 0}
            connection.sendall(post("/v1/completions", body))
            if index % 3:
                server.wait_for_load(lambda l: l["num_running"] > 0)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(stream_and_go, range(16)))


def test_slow_headers_idle_connections_and_the_cap(start_server):
    server = start_server(
        "--header-timeout", "0.3", "--idle-timeout", "0.3", "--max-connections", "3"
    )
    assert raw(server, b"GET /live HT").startswith(b"HTTP/1.1 408 ")
    assert raw(server, b"") == b""
    with server.connect(), server.connect(), server.connect():
        assert raw(server, b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 503 ")


def test_a_full_queue_is_503_with_retry_after(start_server):
    server = start_server("--max-num-seqs", "1", "--max-num-queued-reqs", "1")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        body = {**LONG, "max_tokens": 40}
        answers = list(pool.map(lambda _: server.post("/v1/completions", body), range(8)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(200) >= 1 and codes.count(503) >= 1, codes
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["error"]["code"] == "server_overloaded"


def test_sigterm_finishes_what_runs_and_refuses_what_is_new(start_server):
    server = start_server()
    with server.connect() as connection:
        body = {**LONG, "max_tokens": 150, "stream": True}
        connection.sendall(post("/v1/completions", body))
        answer = connection.recv(4096)
        server.signal()
        while server.get("/health").status_code != 503:
            pass  # until the signal has been taken
        new = server.post("/v1/completions", LONG)
        assert new.status_code == 503 and int(new.headers["retry-after"]) > 0
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert b'"finish_reason":"length"' in answer
    assert server.wait() == 0


def test_the_shutdown_timeout_cancels_what_still_runs(start_server):
    server = start_server("--shutdown-timeout", "0.2")
    with server.connect() as connection:
        connection.sendall(post("/v1/completions", LONG))
        server.wait_for_load(lambda l: l["num_running"] > 0)
        server.signal()
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert server.wait() == 0


def test_sighup_ends_as_sigterm_does(start_server):
    server = start_server()
    server.signal(signal.SIGHUP)
    server.signal(signal.SIGHUP)  # a terminal that goes sends it twice
    assert server.wait() == 0


def test_a_full_stderr_holds_nobody_up():
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, b"x" * 4096)
    command = [BINARY, "serve", MODEL, "--port", "0", "--kv-policy", "hot", "--log-level", "debug",
               "--kv-cache-memory-bytes", "128M", "--max-model-len", "2048"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=write_end, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        for _ in range(50):  # each is a line of the log
            assert httpx.get(url + "/live", headers={"Origin": "http://evil.example"}).status_code == 403
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        os.close(read_end)
        os.close(write_end)


def test_another_sites_page_and_name_are_refused(server):
    evil = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    for path in ("/v1/completions", "/v1/kv/sessions/talk/save"):
        assert httpx.post(server.url + path, content=b"{}", headers=evil).status_code == 403
    assert httpx.get(server.url + "/v1/kv", headers={"Host": "evil.example"}).status_code == 403
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert httpx.get(server.url + "/v1/models", headers=own).status_code == 200


def test_a_prompt_too_long_by_its_bytes_is_400(server):
    answer = server.post("/v1/completions", {"prompt": "a" * 5_000_000})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_the_queue_holds_what_its_flag_says(start_server):
    server = start_server("--max-num-seqs", "1", "--max-num-queued-reqs", "2", "--kv-policy", "hot")
    body = {"prompt": ["a", "b", "c"], "max_tokens": 1}
    for _ in range(5):  # one runs and two wait, whenever the engine looks
        assert server.post("/v1/completions", body).status_code == 200
    too_many = server.post("/v1/completions", {"prompt": ["a"] * 4, "max_tokens": 1})
    assert too_many.status_code == 400, too_many.text


def test_a_second_signal_aborts_at_once(start_server):
    server = start_server()
    with server.connect() as connection:
        connection.sendall(post("/v1/completions", LONG))
        server.wait_for_load(lambda l: l["num_running"] > 0)
        server.signal(signal.SIGINT)
        assert server.get("/live").status_code == 200
        server.signal(signal.SIGTERM)
        assert server.wait(timeout=5) == 1


def run(*arguments):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=60)


def test_a_port_that_is_taken_is_one_clear_line(server):
    done = run("serve", MODEL, "--port", str(server.port))
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{server.port} is taken" in done.stderr and "--port" in done.stderr


def test_a_bad_model_is_one_clear_line(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 100)
    for path in (bad, tmp_path / "none.gguf"):
        done = run("serve", str(path), "--port", "0")
        assert done.returncode == 1
        errors = [line for line in done.stderr.splitlines() if " error " in line]
        assert len(errors) == 1, done.stderr


def test_help_and_version_are_readable():
    assert "serve" in run("--help").stdout
    assert "--max-model-len" in run("serve", "--help").stdout
    assert run("--version").stdout.startswith("thermocline ")
    assert run("serve", MODEL, "--port", "70000").returncode == 2
    assert run("serve", MODEL, "--host", "").returncode == 2
    absurd = run("serve", MODEL, "--kv-cache-memory-bytes", "63T")
    assert absurd.returncode == 1 and "this machine has" in absurd.stderr
    assert run().returncode == 2


def test_the_environment_is_below_the_command_line(monkeypatch):
    monkeypatch.setenv("THERMOCLINE_MAX_MODEL_LEN", "512")
    running = Server("--kv-cache-memory-bytes", "128M")
    try:
        assert running.post("/tokenize", {"prompt": "a"}).json()["max_model_len"] == 512
    finally:
        assert running.stop() == 0
    assert "max model length" in running.log()
