"""Conversations with secrets of their own, more than the arena holds, while pages cool, move, are shared, evicted and
given up: nobody ever reads another's secret, and each still knows its own.
"""

import concurrent.futures
import json
import random

import conftest
import httpx
import pytest

CONVERSATIONS = 16
AT_ONCE = 8
# A page and more that all conversations begin with.
SHARED = ("The following notes were taken by different people on the same day. Each of them was given one number and was "
          "asked to keep it. The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
          "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n")
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "


def conversations(seed):
    chance = random.Random(seed)
    secrets = chance.sample(range(10000, 100000), CONVERSATIONS)
    for number, secret in enumerate(secrets):
        before = chance.randrange(0, 3)
        yield str(secret), (f"{SHARED}Note {number}. {FILLER * before}The pass key is {secret}. Remember it. {secret} is the "
                            f"pass key. {FILLER * (8 - before)}\nWhat is the pass key? The pass key is")


def ask(server, prompt, **more):
    body = {"model": "smol", "prompt": prompt, "max_tokens": 16, "temperature": 0, **more}
    return server.post("/v1/completions", body).json()["choices"][0]["text"]


def ask_and_leave(server, prompt, num_events):
    """What came before the client went."""
    body = {"model": "smol", "prompt": prompt, "max_tokens": 64, "temperature": 0, "ignore_eos": True, "stream": True}
    text = ""
    with httpx.Client(base_url=server.url, timeout=120) as http, http.stream("POST", "/v1/completions", json=body) as response:
        for number, line in enumerate(response.iter_lines()):
            if number >= num_events:
                break
            if line.startswith("data: {"):
                text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"])
    return text


@pytest.fixture(params=["adaptive", "cold"])
def small_server(request):
    # 24 pages of 64 tokens, hot; a conversation takes six or seven.
    server = conftest.Server("--kv-policy", request.param, "--max-model-len", "1024", "--max-num-seqs", str(AT_ONCE),
                             "--kv-cache-memory-bytes", str(24 * 1474560))
    yield server
    assert server.stop() == 0, server.log()


def test_no_secret_reaches_another_conversation(small_server):
    server = small_server
    all_of_them = list(conversations(seed=1))
    secrets = [secret for secret, _ in all_of_them]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        answers, cut_short = [], []
        for number, (secret, prompt) in enumerate(all_of_them):
            answers.append(pool.submit(ask, server, prompt))
            if number % 3 == 0:
                cut_short.append((secret, pool.submit(ask_and_leave, server, prompt, 2 * (number % 5))))
        answers = [answer.result() for answer in answers]
        cut_short = [(secret, answer.result()) for secret, answer in cut_short]
    for secret, answer in [*zip(secrets, answers), *cut_short]:
        others = [other for other in secrets if other != secret and other in answer]
        assert others == [], (secret, answer)
    alone = [ask(server, prompt, kv_fidelity="exact") for _, prompt in all_of_them[::4]]
    assert [answer.split(".")[0] for answer in answers[::4]] == [answer.split(".")[0] for answer in alone]
    right = sum(secret in answer for secret, answer in zip(secrets, answers))
    print(f"{right} of {CONVERSATIONS} know their secret, {server.load()}")
    assert right >= CONVERSATIONS - 1
    load = server.wait_for_load(lambda load: load["num_running"] == 0 and load["num_waiting"] == 0)
    assert load["num_running"] == 0
