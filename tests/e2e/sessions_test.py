"""Conversations that outlive the process: saved by name or only left behind, after a stop and after kill -9."""

import pathlib
import resource
import signal

import httpx
import pytest

BOOK = "The harbour lay still that winter, and the letters came slowly. " * 24


def ask(server, prompt, **more):
    body = {"prompt": prompt, "max_tokens": 24, "temperature": 0, **more}
    answer = server.post("/v1/completions", body).json()
    return answer["choices"][0]["text"], answer["usage"]


def sessions(server):
    return [session["id"] for session in server.get("/v1/kv/sessions").json()["data"]]


def call(server, verb, name):
    return server.post(f"/v1/kv/sessions/{name}/{verb}", {})


@pytest.fixture
def store(tmp_path):
    return tmp_path / "kv"


@pytest.mark.parametrize("policy", ["adaptive", "cold"])
def test_a_restarted_server_continues_with_the_text_of_one_that_never_stopped(start_server, store, policy):
    flags = ("--kv-store-dir", str(store), "--kv-policy", policy)
    first = start_server(*flags)
    begun, usage = ask(first, BOOK)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0, "restored_tokens": 0}
    prompt = BOOK + begun + " The letters"
    never_stopped, _ = ask(first, prompt)
    assert first.stop() == 0
    second = start_server(*flags)
    restarted, usage = ask(second, prompt)
    assert restarted == never_stopped
    restored = usage["prompt_tokens_details"]["restored_tokens"]
    assert restored == usage["prompt_tokens_details"]["cached_tokens"]
    assert restored > 0.8 * usage["prompt_tokens"]
    assert second.get("/v1/kv").json()["store"]["restored_tokens"] == restored


def test_a_saved_session_survives_kill_9(start_server, store):
    first = start_server("--kv-store-dir", str(store))
    begun, usage = ask(first, BOOK, session_id="winter")
    saved = call(first, "save", "winter").json()
    assert saved["tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert 0 < saved["saved_tokens"] <= saved["tokens"] and saved["bytes"] > 0
    never_stopped, _ = ask(first, BOOK + begun + " And")
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = start_server("--kv-store-dir", str(store))
    assert sessions(second) == ["winter"]
    restored = call(second, "restore", "winter").json()
    assert restored["restored_tokens"] == saved["saved_tokens"]
    again, usage = ask(second, BOOK + begun + " And")
    assert again == never_stopped
    assert usage["prompt_tokens_details"] == {"cached_tokens": saved["saved_tokens"], "restored_tokens": 0}
    deleted = httpx.delete(second.url + "/v1/kv/sessions/winter").json()
    assert deleted["deleted"] is True
    assert sessions(second) == []
    second.assert_no_page_is_lost()


def test_damaged_files_are_computed_again(start_server, store):
    first = start_server("--kv-store-dir", str(store))
    text, _ = ask(first, BOOK)
    assert first.stop() == 0
    pages = sorted(pathlib.Path(store).rglob("*.page"))
    assert pages
    for number, page in enumerate(pages):
        content = bytearray(page.read_bytes())
        if number % 3 == 0:
            content[len(content) // 2] ^= 1
        elif number % 3 == 1:
            content = content[:1000]
        else:
            content = b""
        page.write_bytes(content)
    second = start_server("--kv-store-dir", str(store))
    again, usage = ask(second, BOOK)
    assert again == text
    assert usage["prompt_tokens_details"]["restored_tokens"] == 0


def test_a_saved_session_outlives_other_policies_a_lower_cap_and_a_shorter_context(start_server, store):
    flags = ("--kv-store-dir", str(store), "--kv-cache-memory-bytes", "64M")
    first = start_server(*flags, "--kv-policy", "hot")
    ask(first, BOOK, session_id="winter")
    saved = call(first, "save", "winter").json()
    for number in range(3):
        ask(first, f"{number}. " + BOOK)
    assert first.stop() == 0
    for others in (
        ("--kv-policy", "adaptive", "--kv-store-disk-bytes", "16M"),
        ("--kv-policy", "hot", "--max-model-len", "256", "--kv-store-disk-bytes", "16M", "--kv-store-memory-bytes", "8M"),
    ):
        between = start_server(*flags, *others)
        assert sessions(between) == ["winter"]
        restored = call(between, "restore", "winter").json()
        assert restored["restored_tokens"] > 0
        if "256" in others:
            assert "--max-model-len" in restored["warning"]
        ask(between, "Another prompt of some length. " * 30)
        assert between.stop() == 0
    last = start_server(*flags, "--kv-policy", "hot", "--kv-store-disk-bytes", "16M")
    restored = call(last, "restore", "winter").json()
    assert restored["restored_tokens"] == restored["saved_tokens"] == saved["saved_tokens"]
    assert "warning" not in restored


def test_the_whole_context_is_saved_restored_and_scored(start_server, store):
    server = start_server("--kv-store-dir", str(store), "--max-model-len", "256")
    ask(server, "Once upon a time", max_tokens=252, ignore_eos=True, session_id="full")
    saved = call(server, "save", "full").json()
    assert saved["tokens"] == 256 and saved["saved_tokens"] == 192
    restored = call(server, "restore", "full")
    assert restored.status_code == 200 and restored.json()["restored_tokens"] == 192
    tokens = list(range(1000, 1256))
    body = {"prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 1}
    scored = server.post("/v1/completions", body)
    assert scored.status_code == 200
    assert len(scored.json()["choices"][0]["logprobs"]["token_logprobs"]) == 256
    body = {"prompt": tokens, "max_tokens": 0, "echo": True, "prompt_logprobs": 0}
    assert server.post("/v1/completions", body).status_code == 200
    assert server.post("/v1/completions", {"prompt": tokens + [1], "max_tokens": 0}).status_code == 400
    assert server.post("/v1/completions", {"prompt": tokens, "max_tokens": 1}).status_code == 400
    server.assert_no_page_is_lost()


def test_what_saves_or_restores_nothing_is_an_error(start_server, store):
    server = start_server("--kv-store-dir", str(store))
    ask(server, "Short", max_tokens=4, session_id="short")
    assert call(server, "save", "short").status_code == 409
    ask(server, BOOK, session_id="winter")
    assert call(server, "save", "winter").status_code == 200
    server.signal(signal.SIGKILL)
    server.wait()
    for page in store.rglob("*.page"):
        page.unlink()
    again = start_server("--kv-store-dir", str(store))
    assert sessions(again) == ["winter"]
    assert call(again, "restore", "winter").status_code == 409
    assert again.post("/v1/completions", {"prompt": "a", "session_id": ".."}).status_code == 400


def test_a_disk_that_takes_no_more_costs_no_request_and_no_answer_names_a_path(start_server, store):
    # Stands for a full disk, so that nothing has to be mounted. The server sets its own signals.
    server = start_server("--kv-store-dir", str(store / "secret-place"))
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (200_000, 200_000))
    text, _ = ask(server, BOOK, session_id="winter")
    answer = call(server, "save", "winter")
    assert answer.status_code == 503
    assert "disk" in answer.json()["error"]["message"]
    assert "secret-place" not in answer.text
    again, _ = ask(server, BOOK)
    assert again == text
    assert server.stop() == 0
    assert "secret-place" in server.log()


def test_the_directory_may_be_a_link(start_server, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    first = start_server("--kv-store-dir", str(tmp_path / "link"))
    ask(first, BOOK, session_id="winter")
    assert call(first, "save", "winter").status_code == 200
    assert first.stop() == 0
    second = start_server("--kv-store-dir", str(tmp_path / "link") + "/")
    assert call(second, "restore", "winter").json()["restored_tokens"] > 0


def test_two_servers_never_share_a_directory(start_server, store):
    start_server("--kv-store-dir", str(store))
    with pytest.raises(RuntimeError, match="another process"):
        start_server("--kv-store-dir", str(store))


def test_without_a_store_the_calls_say_how_to_get_one(server):
    for answer in (server.get("/v1/kv/sessions"), call(server, "save", "winter"), call(server, "restore", "winter")):
        assert answer.status_code == 501
        assert "--kv-store-dir" in answer.json()["error"]["message"]


def test_unknown_sessions_and_bad_names(start_server, store):
    server = start_server("--kv-store-dir", str(store))
    for verb in ("save", "restore"):
        assert call(server, verb, "nobody").status_code == 404
        assert call(server, verb, "a%20b").status_code == 400
    assert server.post("/v1/completions", {"prompt": "a", "session_id": "../../etc"}).status_code == 400
    assert httpx.delete(server.url + "/v1/kv/sessions/nobody").status_code == 404
