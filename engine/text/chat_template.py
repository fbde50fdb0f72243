"""Renders Hugging Face chat templates; runs inside the engine's embedded interpreter.

`compile_template` is called once for a model, the function it returns once for each request. Limits
hold against templates and arguments that mean harm: every traced line looks at the clock, and strings
cannot grow by multiplication or padding.
"""

import json
import secrets
import sys
import time

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class LimitExceeded(Exception):
    """`args[0]` is "time" or "size"."""


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what a model says, for training; transparent here."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%"])
    max_bytes = 0

    def call_binop(self, context, operator, left, right):
        if operator == "*":
            for sized, times in ((left, right), (right, left)):
                if isinstance(sized, (str, list, tuple)) and isinstance(times, int):
                    if len(sized) * times > self.max_bytes:
                        raise LimitExceeded("size")
        elif operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise LimitExceeded("size")
        elif operator == "%" and isinstance(left, str):
            raise jinja2.exceptions.SecurityError("string formatting is not available")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj, attr, value):
        # Padding and formatting make long strings out of short ones.
        blocked = {"format", "format_map", "ljust", "rjust", "center", "zfill", "expandtabs"}
        if isinstance(obj, str) and attr in blocked:
            return False
        return super().is_safe_attribute(obj, attr, value)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def strftime_now(format):
    return time.strftime(format)


def mark(value, control_tokens, nonce):
    """`value` with the nonce inside each control token that a string of it spells."""
    if isinstance(value, str):
        for token in control_tokens:
            if token in value:
                value = value.replace(token, token[0] + nonce + token[1:])
        return value
    if isinstance(value, list):
        return [mark(item, control_tokens, nonce) for item in value]
    if isinstance(value, dict):
        return {key: mark(item, control_tokens, nonce) for key, item in value.items()}
    return value


def unmark(text, nonce):
    """The text without nonces, and the places in its UTF-8 where they stood."""
    pieces = text.split(nonce)
    places, length = [], 0
    for piece in pieces[:-1]:
        length += len(piece.encode("utf-8", "replace"))
        places.append(length)
    return "".join(pieces).encode("utf-8", "replace"), places


def cut_final_message(text, messages):
    """Drops what the template wrote after the last message's content (continue_final_message)."""
    final = messages[-1]["content"]
    if isinstance(final, list):
        final = next((part["text"] for part in reversed(final) if "text" in part), "")
    stripped = final.strip()
    if not stripped or stripped not in text:
        raise_exception("continue_final_message: the template does not show the final message")
    end = text.rindex(stripped) + len(stripped)
    whole = text.rfind(final)
    if whole != -1 and whole + len(final) >= end:
        return text[: whole + len(final)]
    return text[:end]


def compile_template(source, bos_token, eos_token, control_tokens, max_bytes, max_seconds):
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.max_bytes = max_bytes
    environment.filters["tojson"] = to_json
    for name in ("center", "format", "wordwrap"):
        environment.filters.pop(name)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.globals.pop("lipsum", None)
    template = environment.from_string(source)
    ours = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
    reserved = ours | {"raise_exception", "strftime_now"}
    # Longest first, so that a token inside another is not cut apart before it is seen.
    tokens = sorted((token for token in control_tokens if len(token) > 1), key=len, reverse=True)

    def generate(variables, deadline):
        def watch(frame, event, argument):
            if time.monotonic() > deadline:
                raise LimitExceeded("time")
            return watch

        pieces, size = [], 0
        previous = sys.gettrace()
        sys.settrace(watch)
        try:
            for piece in template.generate(**variables):
                size += len(piece)
                if size > max_bytes:
                    raise LimitExceeded("size")
                pieces.append(piece)
        finally:
            sys.settrace(previous)
        return "".join(pieces)

    def render(messages_json, tools_json, kwargs_json, add_generation_prompt, continue_final_message):
        messages = json.loads(messages_json)
        tools = json.loads(tools_json) if tools_json else None
        kwargs = json.loads(kwargs_json) if kwargs_json else {}
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError("messages must be an array of objects")
        if not isinstance(kwargs, dict) or not reserved.isdisjoint(kwargs):
            raise ValueError("template arguments may not replace " + ", ".join(sorted(reserved)))
        if continue_final_message and add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt exclude each other")
        nonce = "\ue000" + secrets.token_hex(8) + "\ue001"
        messages = mark(messages, tokens, nonce)
        variables = dict(kwargs)
        variables.update(
            messages=messages,
            tools=mark(tools, tokens, nonce),
            documents=None,
            add_generation_prompt=add_generation_prompt,
            bos_token=bos_token,
            eos_token=eos_token,
        )
        text = generate(variables, time.monotonic() + max_seconds)
        if continue_final_message:
            text = cut_final_message(text, messages)
        return unmark(text, nonce)

    return render
