"""Conversations that the page saves and continues, in headless Chromium, across a restart of the server."""

import json
import re

import httpx
import pytest
from playwright.sync_api import expect

from chat_page import ask, browser, configure, keep_screenshot, wait_for_answer  # noqa: F401

LETTER = "<b>Dear Ada</b>, " + "the harbour lay still that winter and the letters came slowly. " * 30


@pytest.fixture
def store(tmp_path):
    return ("--kv-store-dir", str(tmp_path / "kv"))


@pytest.fixture
def open_page(browser):  # noqa: F811
    """Opens pages; fails the test on a script error of any."""
    contexts = []
    wrong = []

    def open_page(url, width=1280, height=800, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(60000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def say(page, text, count=1):
    """What the page sent, once the answer is there."""
    with page.expect_request("**/v1/chat/completions") as request:
        ask(page, text)
    wait_for_answer(page, count)
    return json.loads(request.value.post_data)


def save(page):
    page.locator("#save").click()
    expect(page.locator("#notice")).to_contain_text("Saved: ")


def open_saved(page, count):
    page.locator("#saved-open").click()
    expect(page.locator("#saved-list li")).to_have_count(count)


def sessions(server):
    return server.get("/v1/kv/sessions").json()["data"]


def test_a_saved_conversation_goes_on_after_a_restart(open_page, start_server, store):
    first = start_server(*store)
    page = open_page(first.url)
    configure(page, temperature=0, max_tokens=24, system="Answer like a sailor.")
    sent = say(page, LETTER)
    said = page.locator(".message .body").all_inner_texts()
    save(page)
    saved = sessions(first)
    assert [session["id"] for session in saved] == [sent["session_id"]]
    assert first.stop() == 0
    second = start_server(*store, port=first.port)
    page.reload()
    page.locator("#new-chat").click()
    expect(page.locator(".message")).to_have_count(0)
    open_saved(page, 1)
    entry = page.locator("#saved-list li")
    assert entry.locator("strong").inner_text() == LETTER[:200].strip()
    expect(entry.locator(".meta")).to_contain_text(f"{saved[0]['tokens']} tokens")
    entry.get_by_role("button", name="Continue").click()
    expect(page.locator("#saved")).to_be_hidden()
    restored = saved[0]["saved_tokens"]
    expect(page.locator("#notice")).to_contain_text(f"{restored} of {saved[0]['tokens']} tokens are in memory again")
    assert page.locator(".message .body").all_inner_texts() == said
    expect(page.locator("#kv-pages i.restored")).to_have_count(restored // 64)
    expect(page.locator("#kv-legend")).to_have_text(f"restored {restored}")
    again = say(page, "What did the letters say?", 1)
    assert again["session_id"] == sent["session_id"]
    assert [message["role"] for message in again["messages"]] == ["system", "user", "assistant", "user"]
    expect(page.locator(".assistant .meta")).to_contain_text(re.compile(r"\(\d{3} cached\)"))


def test_pages_that_the_next_message_restores_are_told_apart(open_page, start_server, store):
    first = start_server(*store)
    page = open_page(first.url)
    configure(page, temperature=0, max_tokens=8)
    say(page, LETTER)
    expect(page.locator(".assistant .meta")).not_to_contain_text("cached")
    assert first.stop() == 0
    second = start_server(*store, port=first.port)
    say(page, "What did the letters say?", 2)
    restored = second.get("/v1/kv").json()["store"]["restored_tokens"]
    assert restored > 320
    expect(page.locator(".assistant .meta").last).to_contain_text(f"({restored} cached, {restored} of them restored)")


def test_a_new_chat_is_another_session(open_page, start_server, store):
    server = start_server(*store)
    page = open_page(server.url)
    configure(page, temperature=0, max_tokens=4)
    ids = [say(page, "Hello")["session_id"], say(page, "Again", 2)["session_id"]]
    page.reload()
    ids.append(say(page, "Once more", 1)["session_id"])
    page.locator("#new-chat").click()
    other = say(page, "Hello")["session_id"]
    assert len(set(ids)) == 1 and other != ids[0]
    assert re.fullmatch("[0-9a-f]{32}", other)


def test_deleting_takes_two_presses_and_then_is_for_good(open_page, start_server, store):
    server = start_server(*store)
    page = open_page(server.url)
    configure(page, temperature=0, max_tokens=4)
    say(page, LETTER)
    save(page)
    open_saved(page, 1)
    page.get_by_role("button", name="Delete:").click()
    assert len(sessions(server)) == 1
    page.get_by_role("button", name="Really delete").click()
    expect(page.locator("#saved-list li")).to_have_count(0)
    expect(page.locator("#saved-notice")).to_have_text("Nothing is saved yet.")
    assert sessions(server) == []
    assert page.evaluate("Object.keys(localStorage)") == []


def test_a_session_of_another_browser_can_only_be_deleted(open_page, start_server, store):
    server = start_server(*store)
    server.post("/v1/completions", {"prompt": LETTER, "max_tokens": 1, "session_id": "from-a-script"})
    server.post("/v1/kv/sessions/from-a-script/save", {})
    page = open_page(server.url)
    open_saved(page, 1)
    expect(page.locator("#saved-list strong")).to_have_text("from-a-script")
    expect(page.locator("#saved-list .meta")).to_contain_text("cannot be continued here")
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)
    page.get_by_role("button", name="Delete:").click()
    page.get_by_role("button", name="Really delete").click()
    expect(page.locator("#saved-list li")).to_have_count(0)
    assert sessions(server) == []


def test_messages_whose_pages_are_gone_go_on_by_computing_them(open_page, start_server, store):
    server = start_server(*store)
    page = open_page(server.url)
    configure(page, temperature=0, max_tokens=4)
    name = say(page, LETTER)["session_id"]
    save(page)
    assert httpx.delete(f"{server.url}/v1/kv/sessions/{name}").status_code == 200
    page.locator("#new-chat").click()
    open_saved(page, 1)
    expect(page.locator("#saved-list .meta")).to_contain_text("not at this server")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator("#notice")).to_contain_text("computed again")
    say(page, "Go on.", 1)


def test_errors_are_shown(open_page, start_server, store):
    server = start_server(*store)
    page = open_page(server.url)
    configure(page, temperature=0, max_tokens=4)
    say(page, LETTER)
    full = {"error": {"message": "<i>the disk is full</i>", "type": "server_error", "param": None, "code": None}}
    page.route("**/save", lambda route: route.fulfill(status=503, json=full))
    page.locator("#save").click()
    expect(page.locator("#notice.error")).to_have_text("Error: <i>the disk is full</i>")
    page.unroute("**/save")
    save(page)
    expect(page.locator("#notice.error")).to_have_count(0)
    page.route("**/restore", lambda route: route.fulfill(status=503, json=full))
    open_saved(page, 1)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator(".message")).to_have_count(2)
    expect(page.locator("#notice")).to_have_text(
        "Continued: its tokens are computed again with the next message (<i>the disk is full</i>).")
    page.unroute("**/restore")
    page.route("**/restore", lambda route: route.fulfill(status=500, json=full))
    open_saved(page, 1)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#saved-notice.error")).to_have_text("Error: <i>the disk is full</i>")
    assert server.stop() == 0
    page.get_by_role("button", name="Delete:").click()
    page.get_by_role("button", name="Really delete").click()
    expect(page.locator("#saved-notice.error")).to_contain_text("Failed to fetch")
    expect(page.locator("#saved-list li")).to_have_count(1)


def test_without_a_store_nothing_can_be_saved(open_page, server):
    page = open_page(server.url)
    with page.expect_response("**/v1/kv/sessions") as response:
        page.reload()
    assert response.value.status == 501
    configure(page, temperature=0, max_tokens=4)
    say(page, "Hello")
    expect(page.locator("#save")).to_be_hidden()
    expect(page.locator("#saved-open")).to_be_hidden()
    expect(page.locator("#saved")).to_be_hidden()


def test_titles_are_only_text_and_the_keyboard_is_enough(open_page, start_server, store):
    server = start_server(*store)
    page = open_page(server.url)
    configure(page, temperature=0, max_tokens=4)
    say(page, "<img src=x onerror='document.title=1'><script>document.title=2</script> " + LETTER)
    page.locator("#save").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("Saved: ")
    page.locator("#saved-open").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#saved-list strong")).to_contain_text("<img src=x onerror='document.title=1'>")
    assert page.locator("#saved-list img, #saved-list script, #saved-list b").count() == 0
    expect(page).to_have_title("Thermocline")
    page.keyboard.press("Escape")
    expect(page.locator("#saved")).to_be_hidden()
    expect(page.locator("#saved-open")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#saved-close")).to_be_focused()
    expect(page.locator("#saved-list li")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("Continued")
    expect(page.locator("#prompt")).to_be_focused()


def test_a_page_that_wakes_is_marked(open_page, server):
    page = open_page(server.url)
    looks = iter(["hhaah", "hhcah"])  # few: the story may be short

    def look(route):
        answer = route.fetch()
        kv = answer.json()
        for sequence in kv["sequences"]:
            sequence["pages"] = next(looks, "hhcah")
        route.fulfill(response=answer, json=kv)

    page.route("**/v1/kv", look)
    page.evaluate("""() => new MutationObserver(() => {
        const woken = [...document.querySelectorAll('#kv-pages i')].map((cell) => cell.className);
        if (woken.some((name) => name.includes('waking'))) window.woken = woken;
    }).observe(document.querySelector('#kv-pages'), {childList: true})""")
    configure(page, max_tokens=1500)
    ask(page, "Write a very long story about the sea.")
    page.wait_for_function("() => window.woken")
    assert page.evaluate("window.woken") == ["hot", "hot", "cold waking", "archive", "hot"]
    page.locator("#stop").click()


@pytest.mark.parametrize("name, width, height, scheme", [
    ("saved", 1280, 800, "light"), ("saved-dark", 1280, 800, "dark"), ("saved-phone", 390, 844, "light")])
def test_nothing_sticks_out(open_page, start_server, store, name, width, height, scheme):
    server = start_server(*store)
    page = open_page(server.url, width, height, scheme)
    configure(page, temperature=0, max_tokens=24)
    for number, text in enumerate(["Plan a week in Lisbon. ", "Explain tides to a child. "]):
        page.locator("#new-chat").click()
        say(page, text + LETTER)
        save(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        keep_screenshot(page, f"{name}-notice-{number}")
    server.post("/v1/completions", {"prompt": LETTER, "max_tokens": 1, "session_id": "a-script-" + "x" * 119})
    server.post("/v1/kv/sessions/a-script-" + "x" * 119 + "/save", {})
    open_saved(page, 3)
    page.get_by_role("button", name="Delete:").first.click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("#saved").evaluate("(panel) => panel.scrollWidth <= panel.clientWidth")
    keep_screenshot(page, name)
    page.get_by_role("button", name="Continue").first.click()
    expect(page.locator("#notice")).to_contain_text("Continued")
    keep_screenshot(page, f"{name}-continued")
