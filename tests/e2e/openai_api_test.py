"""The API as openai-python and vLLM's users see it, on the real model."""

import json

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def test_a_chat_is_answered(client):
    answer = client.chat.completions.create(
        model="smol", messages=QUESTION, temperature=0, max_completion_tokens=24
    )
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 24


def test_a_stream_adds_up_to_the_whole_answer(client):
    common = dict(model="smol", messages=QUESTION, temperature=0, max_tokens=24)
    whole = client.chat.completions.create(**common)
    chunks = list(
        client.chat.completions.create(
            **common, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    assert reasons[-1] == whole.choices[0].finish_reason
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len(chunks) > 5  # in pieces, not at the end


def test_a_completion_continues_its_prompt(client):
    answer = client.completions.create(
        model="smol", prompt="1, 2, 3, 4, 5, 6, 7,", temperature=0, max_tokens=6
    )
    assert answer.choices[0].text.strip().startswith("8")
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 6


def test_prompts_are_text_or_tokens_one_or_many(server, client):
    prompts = ["The sky is", "Two plus two is"]
    ids = [server.post("/tokenize", {"prompt": p}).json()["tokens"] for p in prompts]
    common = dict(model="smol", temperature=0, max_tokens=5)
    text = client.completions.create(prompt=prompts, **common)
    tokens = client.completions.create(prompt=ids, **common)
    alone = client.completions.create(prompt=ids[1], **common)
    assert [c.index for c in text.choices] == [0, 1]
    assert [c.text for c in text.choices] == [c.text for c in tokens.choices]
    assert alone.choices[0].text == text.choices[1].text
    assert text.usage.prompt_tokens == sum(map(len, ids))


def test_echo_and_logprobs_score_the_prompt(client):
    answer = client.completions.create(
        model="smol", prompt="Hello world", echo=True, logprobs=2, max_tokens=0
    )
    choice = answer.choices[0]
    assert choice.text == "Hello world"
    assert "".join(choice.logprobs.tokens) == "Hello world"
    assert choice.logprobs.token_logprobs[0] is None
    assert all(p <= 0 for p in choice.logprobs.token_logprobs[1:])
    assert choice.logprobs.text_offset[0] == 0
    assert answer.usage.completion_tokens == 0
    longer = client.completions.create(
        model="smol", prompt="Hello world", echo=True, logprobs=2, max_tokens=3, temperature=0
    ).choices[0]
    assert longer.text.startswith("Hello world")
    assert len(longer.logprobs.tokens) == len(choice.logprobs.tokens) + 3
    assert longer.logprobs.token_logprobs[1] == pytest.approx(
        choice.logprobs.token_logprobs[1], abs=1e-4
    )


@pytest.mark.parametrize("n", [1, 3])
def test_what_belongs_to_the_prompt_is_given_once(client, n):
    chat = client.chat.completions.create(
        model="smol", messages=QUESTION, max_tokens=1, n=n, extra_body={"prompt_logprobs": 0, "return_token_ids": True})
    assert len(chat.prompt_logprobs) == len(chat.prompt_token_ids) == chat.usage.prompt_tokens
    assert [len(c.token_ids) for c in chat.choices] == [1] * n
    prompts = ["The sky is blue", "Two plus two"]
    common = dict(model="smol", prompt=prompts, echo=True, logprobs=1, max_tokens=2, n=n, seed=3)
    answer = client.completions.create(**common, extra_body={"prompt_logprobs": 0})
    assert len(answer.choices) == 2 * n
    for i, choice in enumerate(answer.choices):
        assert choice.text.startswith(prompts[i // n])
        assert "".join(choice.logprobs.tokens).startswith(prompts[i // n])
        assert len(choice.logprobs.tokens) == len(choice.prompt_logprobs) + 2
        assert choice.prompt_logprobs == answer.choices[i // n * n].prompt_logprobs
    offsets, texts = [[] for _ in answer.choices], [""] * len(answer.choices)
    for chunk in client.completions.create(**common, stream=True):
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        offsets[choice.index] += choice.logprobs.text_offset
    assert texts == [c.text for c in answer.choices]
    assert offsets == [c.logprobs.text_offset for c in answer.choices]


def parts(choice):
    """What the text has from each token's offset to the next one's."""
    ends = choice.logprobs.text_offset[1:] + [len(choice.text)]
    return [choice.text[begin:end] for begin, end in zip(choice.logprobs.text_offset, ends)]


def test_offsets_are_places_in_the_text(client, server):
    turn = "<|im_start|>user\nSay ok<|im_end|>\n<|im_start|>assistant\nok<|im_end|>\n"
    common = dict(model="smol", prompt=turn, max_tokens=8, temperature=0, logprobs=0)
    hidden = client.completions.create(**common, extra_body={"ignore_eos": True}).choices[0]
    assert any(t.startswith("<|") for t in hidden.logprobs.tokens)  # or the case tells nothing
    assert parts(hidden) == ["" if t.startswith("<|") else t for t in hidden.logprobs.tokens]
    shown = client.completions.create(**common, extra_body={"ignore_eos": True, "skip_special_tokens": False}).choices[0]
    assert parts(shown) == shown.logprobs.tokens
    assert shown.text == "".join(hidden.logprobs.tokens)
    echoed = client.completions.create(**{**common, "prompt": "naïve 🙂 北京 " + turn, "echo": True, "max_tokens": 1}).choices[0]
    assert "".join(parts(echoed)) == echoed.text
    for token, part in zip(echoed.logprobs.tokens, parts(echoed)):
        assert part == token or token.startswith("bytes:") or token == "<|im_end|>"
    ids = server.post("/tokenize", {"prompt": "🙂"}).json()["tokens"]
    assert len(ids) > 1
    hi = server.post("/tokenize", {"prompt": "hi"}).json()["tokens"]
    cut = client.completions.create(model="smol", prompt=[*ids[:-1], *ids, *hi], echo=True, logprobs=0, max_tokens=0).choices[0]
    assert cut.text == "\ufffd🙂hi"
    assert cut.logprobs.text_offset == [0] * (len(ids) - 1) + [1] * len(ids) + [2]


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_stay_in_a_text_that_a_stop_string_ends(client, stream):
    answer = client.completions.create(
        model="smol", prompt="1, 2, 3, 4, 5, 6, 7,", temperature=0, max_tokens=30, logprobs=0, stop=["0, 11"], stream=stream)
    choices = [c.choices[0] for c in answer] if stream else [answer.choices[0]]
    text = "".join(c.text for c in choices)
    offsets = [o for c in choices for o in c.logprobs.text_offset]
    tokens = [t for c in choices for t in c.logprobs.tokens]
    assert text.endswith(" 1") and choices[-1].stop_reason == "0, 11"
    assert offsets == sorted(offsets) and offsets[-1] == len(text) and len(tokens) == len(offsets)
    for token, begin in zip(tokens, offsets):
        assert token.startswith(text[begin:begin + len(token)])


def test_a_cache_salt_parts_the_prefix_cache(client):
    def cached(**salt):
        return client.completions.create(
            model="smol", prompt="Salt and pepper. " * 20, max_tokens=1, temperature=0, extra_body=salt
        ).usage.prompt_tokens_details.cached_tokens
    assert cached() == 0 and cached() > 0
    assert cached(cache_salt="a") == 0 and cached(cache_salt="a") > 0
    assert cached(cache_salt="b") == 0


def test_a_cache_salt_parts_the_store_too(start_server, tmp_path):
    flags = ("--kv-policy", "hot", "--kv-store-dir", str(tmp_path))
    def restored(**salt):
        return client.completions.create(
            model="smol", prompt="Salt and pepper. " * 20, max_tokens=1, temperature=0, extra_body=salt
        ).usage.prompt_tokens_details.restored_tokens
    server = start_server(*flags)
    client = server.client()
    salt = "s" * 128  # the longest
    assert restored(cache_salt=salt) == 0
    assert server.stop() == 0
    client = start_server(*flags).client()
    assert restored() == 0 and restored(cache_salt="t" * 128) == 0
    assert restored(cache_salt=salt) > 0


def test_other_names_and_greedy_values_are_honoured(client):
    common = dict(model="smol", prompt="one two one two one two", max_tokens=12)
    plain = client.completions.create(**common, temperature=0).choices[0].text
    ours = client.completions.create(**common, temperature=0, extra_body={"repetition_penalty": 1.7}).choices[0].text
    theirs = client.completions.create(**common, temperature=0, extra_body={"repeat_penalty": 1.7}).choices[0].text
    assert ours == theirs != plain
    assert client.completions.create(**common, temperature=2, top_p=0).choices[0].text == plain


def test_chat_logprobs_name_the_alternatives(client):
    answer = client.chat.completions.create(
        model="smol", messages=QUESTION, temperature=0, max_tokens=4, logprobs=True, top_logprobs=3
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens
    for token in content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob  # greedy takes the most likely
        assert bytes(token.bytes).decode() == token.token
        probabilities = [t.logprob for t in token.top_logprobs]
        assert probabilities == sorted(probabilities, reverse=True)


def test_n_gives_as_many_choices_and_a_seed_repeats_them(client):
    common = dict(model="smol", messages=QUESTION, temperature=1.5, max_tokens=12, n=3, seed=7)
    first = client.chat.completions.create(**common)
    again = client.chat.completions.create(**common)
    texts = [c.message.content for c in first.choices]
    assert [c.index for c in first.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    assert texts == [c.message.content for c in again.choices]
    assert first.usage.completion_tokens <= 36


def test_a_stop_string_ends_the_answer_before_it(client):
    prompt = "1, 2, 3, 4, 5, 6, 7,"
    answer = client.completions.create(
        model="smol", prompt=prompt, temperature=0, max_tokens=30, stop=[" 10"]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "9" in answer.choices[0].text and "10" not in answer.choices[0].text
    assert answer.choices[0].stop_reason == " 10"
    included = client.completions.create(
        model="smol",
        prompt=prompt,
        temperature=0,
        max_tokens=30,
        stop=[" 10"],
        extra_body={"include_stop_str_in_output": True},
    )
    assert included.choices[0].text == answer.choices[0].text + " 10"


def test_ignore_eos_and_min_tokens_go_on(client):
    answer = client.chat.completions.create(
        model="smol", messages=QUESTION, max_tokens=60, temperature=0, extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 60
    assert answer.choices[0].finish_reason == "length"


def test_a_repeated_prompt_is_found_in_the_cache(client):
    messages = [{"role": "user", "content": "Tell me about caches. " * 40}]
    common = dict(model="smol", messages=messages, max_tokens=1, temperature=0)
    client.chat.completions.create(**common)
    again = client.chat.completions.create(**common)
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached > 0 and cached % 64 == 0 and cached < again.usage.prompt_tokens


def test_usage_tells_where_the_tokens_are(client):
    common = dict(model="smol", prompt=["One. " * 60, "Two. " * 60], max_tokens=2, temperature=0)
    usage = client.completions.create(**common).usage
    assert usage.kv_tokens == {"hot": usage.total_tokens - 2, "warm": 0, "cold": 0, "archive": 0}  # the last is not computed
    assert usage.reused_lossy_cache is False


def test_forced_cold_leaves_the_recent_window_hot(start_server):
    server = start_server("--kv-policy", "cold")
    common = dict(model="smol", prompt="One two three four. " * 100, max_tokens=8, temperature=0)
    chunks = list(server.client().completions.create(**common, stream=True, stream_options={"include_usage": True}))
    usage = chunks[-1].usage
    assert usage.kv_tokens["warm"] == 64  # the first page
    assert usage.kv_tokens["cold"] >= 128 and usage.kv_tokens["cold"] % 64 == 0
    assert 192 <= usage.kv_tokens["hot"] < 192 + 128
    assert not usage.reused_lossy_cache
    assert server.client().completions.create(**common).usage.reused_lossy_cache


def test_kv_shows_the_pages_of_an_answer_that_streams(start_server):
    server = start_server("--kv-policy", "cold", "--kv-budget", "0.5")
    secret = "The password is swordfish. "
    stream = server.client().completions.create(
        model="smol", prompt=secret * 80, max_tokens=300, temperature=0, stream=True, extra_body={"ignore_eos": True})
    assert stream.response.headers["x-response-id"] == (first := next(stream)).id
    answer = server.get("/v1/kv")
    kv = answer.json()
    (sequence,) = kv["sequences"]
    assert sequence["id"] == first.id and sequence["choice"] == 0
    pages = sequence["pages"]
    assert len(pages) == -(-sequence["tokens"] // kv["page_tokens"])
    assert pages.startswith("wcc") and pages.endswith("hhh")
    assert "swordfish" not in answer.text
    assert (kv["policy"], kv["fidelity"], kv["budget"]) == ("cold", "balanced", 0.5)
    assert kv["moves"]["ended"]["cold"] >= pages.count("c")
    tiers = kv["tiers"]
    assert tiers["cold"]["pages"] >= pages.count("c")
    assert all(tier["bytes"] == tier["pages"] * tier["page_bytes"] for tier in tiers.values())
    assert kv["arena"]["bytes"] == kv["arena"]["free_bytes"] + sum(tier["bytes"] for tier in tiers.values())
    for tier, buckets in kv["energy_log2"].items():
        assert sum(buckets.values()) == tiers[tier]["pages"]
    stream.close()
    server.wait_for_load(lambda load: load["num_running"] == 0)
    assert server.get("/v1/kv").json()["sequences"] == []


def test_metrics_agree_with_what_was_done(start_server):
    server = start_server("--kv-policy", "warm")
    usage = server.client().completions.create(model="smol", prompt="a b c " * 200, max_tokens=5, temperature=0).usage
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    def value(name, **labels):
        wanted = {"model_name": "smol", **labels}
        return next(s.value for family in families.values() for s in family.samples
                    if s.name == "thermocline_" + name and s.labels == wanted)
    assert all(name.startswith("thermocline_") and families[name].documentation for name in families)
    assert families["thermocline_kv_moves"].type == "counter"
    assert families["thermocline_kv_pages"].type == "gauge"
    assert value("prompt_tokens_total") == usage.prompt_tokens
    assert value("generation_tokens_total") == usage.completion_tokens
    assert value("kv_moves_total", tier="warm") == usage.kv_tokens["warm"] / 64
    assert value("kv_pages", tier="warm") == usage.kv_tokens["warm"] / 64
    assert value("kv_move_failures_total", reason="corrupt") == 0
    assert value("kv_move_seconds_total") > 0 and value("step_seconds_total") > 0
    assert value("num_requests_running") == value("num_requests_waiting") == 0


def test_control_tokens_in_a_message_stay_text(server):
    message = {"role": "user", "content": "<|im_end|>"}
    forged = server.post("/tokenize", {"messages": [message]}).json()["tokens"]
    raw = server.post("/tokenize", {"prompt": "<|im_end|>"}).json()["tokens"]
    plain = server.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]}).json()["tokens"]
    assert len(raw) == 1
    assert forged.count(raw[0]) == plain.count(raw[0])


def test_tokenize_and_detokenize_are_inverse(server):
    text = "Ångström, naïve 北京 🙂\n\tdef f(x): return x"
    tokens = server.post("/tokenize", {"prompt": text, "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert tokens["max_model_len"] == 2048
    assert server.post("/detokenize", {"tokens": tokens["tokens"]}).json()["prompt"] == text


def test_models_are_listed_and_retrieved(client):
    assert [m.id for m in client.models.list()] == ["smol"]
    assert client.models.retrieve("smol").id == "smol"
    with pytest.raises(openai.NotFoundError) as error:
        client.models.retrieve("gpt-4")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-4", messages=QUESTION)


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"temperature": -1}, "temperature"),
        ({"n": 9}, "n"),
        ({"top_p": 2}, "top_p"),
        ({"logit_bias": {"49152": 1}}, "logit_bias.49152"),
        ({"response_format": {"type": "json_object"}}, "response_format.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"extra_body": {"regex": "a+"}}, "regex"),
        ({"extra_body": {"xtc_probability": 0.5}}, "xtc_probability"),
        ({"extra_body": {"repetition_penalty": 1.1, "repeat_penalty": 1.2}}, "repeat_penalty"),
        ({"extra_body": {"top_k": 2**63}}, "top_k"),
        ({"extra_body": {"stop_token_ids": [49152]}}, "stop_token_ids[0]"),
    ],
)
def test_a_bad_field_is_named(client, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="smol", messages=QUESTION, **fields)
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


def test_images_are_refused_by_path(client):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="smol", messages=[{"role": "user", "content": [image]}])
    assert error.value.param == "messages[0].content[0].type"


def test_a_prompt_that_is_too_long_is_refused_with_the_counts(client):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="smol", prompt=[1] * 2049, max_tokens=1)
    assert error.value.code == "context_length_exceeded"
    assert "2049" in error.value.message and "2048" in error.value.message


def test_max_tokens_beyond_the_room_is_cut_with_a_warning(start_server):
    client = start_server("--max-model-len", "256").client()
    common = dict(model="smol", prompt=[1] * 248, temperature=0, extra_body={"ignore_eos": True})
    answer = client.completions.create(**common, max_tokens=49)
    assert answer.usage.completion_tokens == 8
    assert len(answer.warnings) == 1 and "8 of the 49" in answer.warnings[0]
    whole = client.completions.create(**common, max_tokens=-1)
    assert whole.choices[0].text == answer.choices[0].text and not hasattr(whole, "warnings")
    chunks = list(client.completions.create(**common, max_tokens=49, stream=True))
    assert chunks[0].warnings == answer.warnings


def test_small_endpoints_answer(server):
    assert server.get("/health").status_code == 200
    assert server.get("/live").status_code == 200
    assert server.get("/version").json()["version"]
    load = server.load()
    assert load["num_running"] == 0 and load["num_pages"] > 0
    assert server.get("/nothing").status_code == 404
    answer = httpx.get(server.url + "/v1/completions", headers={"x-request-id": "my-id"})
    assert answer.status_code == 405 and "POST" in answer.headers["allow"]
    assert answer.headers["x-request-id"] == "my-id"


def test_the_page_is_served_and_revalidated(server):
    page = server.get("/")
    assert page.status_code == 200 and "<html" in page.text.lower()
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(server.url + "/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304 and not again.content


def test_raw_stream_events_are_well_formed(server):
    body = {"prompt": "a", "max_tokens": 3, "stream": True, "ignore_eos": True}
    answer = server.post("/v1/completions", body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert len({chunk["id"] for chunk in chunks}) == 1
