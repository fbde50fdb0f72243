"""Brings messages to the form that a template expects, which is found by trying the template.

Templates differ in whether a call's arguments are an object or its JSON text, in how an assistant's
missing content is spelled, in the roles that they know, and in whether content is text or a list of
parts. What a template knows is given as it came.
"""

import json

# What find_forms() finds, as bits.
ARGUMENTS_ARE_TEXT = 1
EMPTY_IS_TEXT = 2  # beside tool calls, no content is ""; null without this and the next
EMPTY_IS_MISSING = 4
CONTENT_IS_PARTS = 8
NO_DEVELOPER = 16  # a system message then
NO_SYSTEM = 32  # its text then begins the next user message
NO_CALLS = 64  # content then, as JSON
NO_TOOL_ROLE = 128  # a user message then, as JSON

VERBATIM = -1  # messages are given as they come


def find_forms(attempt):
    """`attempt(messages, tools, forms)` renders, or gives None when the template raises."""
    forms = 0

    def shows(words, *messages, tools=None):
        text = attempt(list(messages), tools, forms)
        return text is not None and all(word in text for word in words)

    user = {"role": "user", "content": "zqask"}
    if not shows(["zqask"], user):
        forms = CONTENT_IS_PARTS
        if not shows(["zqask"], user):
            return 0  # whatever it needs, it is not known here
    if not shows(["zqsystem"], {"role": "system", "content": "zqsystem"}, user):
        forms |= NO_SYSTEM
    if not knows_developer(attempt, user, forms):
        forms |= NO_DEVELOPER
    forms |= call_forms(attempt, user, forms)
    result = {"role": "tool", "tool_call_id": "zqcall123", "name": "zqname", "content": "zqresult"}
    if not shows(["zqresult"], user, call_message(), result):
        forms |= NO_TOOL_ROLE
    return forms


def knows_developer(attempt, user, forms):
    """Whether it treats the role in another way than one that it has never heard of."""
    developer = attempt([{"role": "developer", "content": "zqsystem"}, user], None, forms)
    if developer is None or "zqsystem" not in developer:
        return False
    unknown = attempt([{"role": "zqrole", "content": "zqsystem"}, user], None, forms)
    return unknown is None or developer.replace("developer", "zqrole") != unknown


def call_message():
    call = {"id": "zqcall123", "type": "function", "function": {"name": "zqname", "arguments": '{"zqkey": "zqvalue"}'}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def call_forms(attempt, user, forms):
    """The first way in which a call is shown as it should be, or else at all."""
    tool = {"type": "function", "function": {"name": "zqother", "description": "other", "parameters": {
        "type": "object", "properties": {"other": {"type": "string", "description": "other"}}}}}
    usual = attempt([user], [tool], forms) or ""
    shown = None
    for arguments in (0, ARGUMENTS_ARE_TEXT):
        for empty in (0, EMPTY_IS_TEXT, EMPTY_IS_MISSING):
            text = attempt([user, call_message()], [tool], forms | arguments | empty)
            if text is None or "zqname" not in text:
                continue
            if "None" in text and "None" not in usual:
                continue  # the missing content, printed
            if shown is None:
                shown = arguments | empty
            # An object that was printed as it is looks like Python, text in text has backslashes.
            if arguments and '{"zqkey": "zqvalue"}' in text:
                return arguments | empty
            if not arguments and "zqkey" in text and "zqvalue" in text and "'zqkey'" not in text:
                return arguments | empty
    return NO_CALLS if shown is None else shown


def adapt(messages, forms):
    """`messages` in the form that the template expects. Changes them."""
    if forms == VERBATIM:
        return messages
    for message in messages:
        if message.get("role") == "developer" and forms & NO_DEVELOPER:
            message["role"] = "system"
        adapt_calls(message, forms)
        if message.get("role") == "tool" and forms & NO_TOOL_ROLE:
            answer = {"tool_response": {name: message[name] for name in ("name", "tool_call_id") if name in message}}
            answer["tool_response"]["content"] = as_text(message.get("content"))
            message["role"], message["content"] = "user", json.dumps(answer, ensure_ascii=False)
    if forms & NO_SYSTEM:
        messages = without_system(messages)
    for message in messages:
        adapt_content(message, forms)
    return messages


def adapt_calls(message, forms):
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not calls:
        if calls is not None:
            del message["tool_calls"]  # [] or null: there are none
        if message.get("content") is None:
            message["content"] = ""
        return
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            function["arguments"] = adapt_arguments(function.get("arguments"), forms)
    if forms & NO_CALLS:
        functions = [call.get("function") for call in calls if isinstance(call, dict)]
        text = json.dumps({"tool_calls": functions}, ensure_ascii=False)
        before = as_text(message.get("content"))
        message["content"] = before + "\n" + text if before else text
        del message["tool_calls"]
    elif not message.get("content"):
        message["content"] = "" if forms & EMPTY_IS_TEXT else None
        if forms & EMPTY_IS_MISSING:
            del message["content"]


def adapt_arguments(arguments, forms):
    if forms & ARGUMENTS_ARE_TEXT:
        if isinstance(arguments, str):
            return arguments
        return json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    if arguments is None or arguments == "":
        return {}
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
            return value if isinstance(value, dict) else arguments
        except (ValueError, RecursionError):
            return arguments  # what a model wrote need not be JSON
    return arguments


def as_text(content):
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def adapt_content(message, forms):
    content = message.get("content")
    if forms & CONTENT_IS_PARTS:
        if isinstance(content, str):
            message["content"] = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        message["content"] = as_text(content)


def without_system(messages):
    """System messages join the user message that follows, or become one."""
    kept, waiting = [], []
    for message in messages:
        role = message.get("role")
        if role == "system":
            waiting.append(as_text(message.get("content")))
            continue
        if waiting and role == "user":
            waiting.append(as_text(message.get("content")))
            message["content"] = "\n\n".join(waiting)
        elif waiting:
            kept.append({"role": "user", "content": "\n\n".join(waiting)})
        waiting = []
        kept.append(message)
    if waiting:
        kept.append({"role": "user", "content": "\n\n".join(waiting)})
    return kept
