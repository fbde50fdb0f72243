"""The page to chat on, in headless Chromium, against the real server.

THERMOCLINE_SCREENSHOTS, a folder, keeps what the page looks like on a desktop and on a phone.
"""

import json
import re

import pytest
from playwright.sync_api import expect

from chat_page import ask, browser, configure, keep_screenshot, wait_for_answer  # noqa: F401


@pytest.fixture
def page(browser, server):
    """A fresh page; fails the test on a script error or a request to anywhere else."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = context.new_page()
    opened.set_default_timeout(60000)
    wrong = []
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda request: request.url.startswith((server.url, "data:")) or wrong.append(request.url))
    opened.goto(server.url)
    yield opened
    context.close()
    assert wrong == []


def test_the_page_names_the_model(page):
    expect(page.locator("#model")).to_have_text("smol")
    expect(page).to_have_title("Thermocline")


def test_an_answer_streams_and_its_speed_is_shown(page, client):
    configure(page, temperature=0, max_tokens=40)
    question = "Tell me about the sea in one sentence."
    ask(page, question)
    wait_for_answer(page)
    same = client.chat.completions.create(
        model="smol", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=40)
    shown = page.locator(".assistant .body").inner_text()
    assert shown.split() == same.choices[0].message.content.split()
    expect(page.locator(".assistant .meta")).to_contain_text("tokens/s")


def test_the_conversation_goes_on_with_all_that_was_said(page):
    configure(page, temperature=0, max_tokens=8)
    ask(page, "My name is Ada.")
    wait_for_answer(page)
    with page.expect_request("**/v1/chat/completions") as request:
        ask(page, "Who am I?")
    sent = json.loads(request.value.post_data)
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    wait_for_answer(page, 2)
    page.reload()
    expect(page.locator(".message")).to_have_count(4)


def test_settings_are_sent(page):
    configure(page, temperature=1.5, max_tokens=3, system="Be brief.")
    with page.expect_request("**/v1/chat/completions") as request:
        ask(page, "Hello")
    sent = json.loads(request.value.post_data)
    assert (sent["temperature"], sent["max_tokens"]) == (1.5, 3)
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    wait_for_answer(page)


def test_stop_stops_the_server_too(page, server):
    configure(page, max_tokens=1500)
    ask(page, "Write a very long story about the sea.")
    page.locator(".assistant .body p").first.wait_for()
    page.locator("#stop").click()
    expect(page.locator(".assistant .meta")).to_have_text("Stopped.")
    server.wait_for_load(lambda load: load["num_running"] == 0)
    expect(page.locator("#send")).to_be_visible()


def test_a_new_chat_forgets_an_answer_that_still_runs(page, server):
    configure(page, max_tokens=1500)
    ask(page, "Write a very long story about the sea.")
    page.locator(".assistant .body p").first.wait_for()
    page.locator("#new-chat").click()
    expect(page.locator("#welcome")).to_be_visible()
    server.wait_for_load(lambda load: load["num_running"] == 0)
    expect(page.locator("#send")).to_be_visible()
    page.reload()
    expect(page.locator(".message")).to_have_count(0)


STORY = "Once upon a time a ship sailed far over the deep blue sea, and nobody knew where it went. "


@pytest.mark.parametrize("name, width, height, scheme", [
    ("kv", 1280, 800, "light"), ("kv-dark", 1280, 800, "dark"), ("kv-phone", 390, 844, "light")])
def test_pages_cool_before_the_readers_eyes(browser, start_server, name, width, height, scheme):
    server = start_server("--kv-policy", "cold")
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#kv")).to_be_hidden()
    configure(page, temperature=0, max_tokens=150)
    with page.expect_response("**/v1/chat/completions") as response:
        ask(page, STORY * 60 + "Go on with this story.")
    live = "() => document.querySelector('#kv-pages i.cold') && !document.querySelector('#stop').hidden"
    page.wait_for_function(live, timeout=60000)
    wait_for_answer(page)
    events = [json.loads(event[6:]) for event in response.value.text().split("\n\n") if event.startswith("data: {")]
    assert response.value.headers["x-response-id"] == events[0]["id"]
    tokens = events[-1]["usage"]["kv_tokens"]
    assert tokens["warm"] == 64 and tokens["cold"] > 640
    expect(page.locator("#kv-legend")).to_have_text("".join(f"{tier} {tokens[tier]}" for tier in tokens))
    expect(page.locator("#kv-pages i")).to_have_count(-(-sum(tokens.values()) // 64))
    expect(page.locator("#kv-pages i").first).to_have_class("warm")
    expect(page.locator("#kv-pages i").last).to_have_class("hot")
    expect(page.locator("#kv-pages")).to_have_attribute("aria-label", re.compile(f"{tokens['cold']} cold"))
    expect(page.locator("#kv-savings")).to_have_text(
        re.compile(r"^[23]\.\d× smaller than all hot: [\d.]+ instead of [\d.]+ MiB$"))
    expect(page.locator(".assistant .meta")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    keep_screenshot(page, name)
    page.locator("#new-chat").click()
    expect(page.locator("#kv")).to_be_hidden()
    context.close()


def test_markup_in_messages_is_only_text(page):
    answer = {"choices": [{"index": 0, "delta": {"content": "<img src=x onerror='document.title=1'> **b** `c`"}}]}
    stream = f"data: {json.dumps(answer)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(
        status=200, headers={"Content-Type": "text/event-stream"}, body=stream))
    ask(page, "<script>document.title=2</script>")
    wait_for_answer(page)
    assert page.locator(".message img, .message script").count() == 0
    assert page.locator(".user .body").inner_text() == "<script>document.title=2</script>"
    expect(page.locator(".assistant strong")).to_have_text("b")
    expect(page).to_have_title("Thermocline")


def test_an_error_of_the_server_is_shown(page):
    ask(page, "word " * 3000)
    expect(page.locator(".assistant .meta.error")).to_contain_text("tokens")
    expect(page.locator("#send")).to_be_visible()


@pytest.mark.parametrize("name, width, height, scheme", [
    ("desktop", 1280, 800, "light"), ("desktop-dark", 1280, 800, "dark"), ("phone", 390, 844, "light")])
def test_nothing_sticks_out(browser, server, name, width, height, scheme):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.goto(server.url)
    configure(page, temperature=0, max_tokens=120)
    ask(page, "Write a Python function that adds two numbers, then list three uses of it.")
    wait_for_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
    box = page.locator("#prompt").bounding_box()
    assert box["y"] + box["height"] <= height
    keep_screenshot(page, name)
    context.close()
