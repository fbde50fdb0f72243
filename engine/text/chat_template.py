"""Renders Hugging Face chat templates; runs inside the engine's embedded interpreter.

`compile_template` is called once for a model, the function it returns once for each request. Limits
hold against templates and arguments that mean harm. Every traced line looks at the clock; one long call
into C would not, so each operation that makes a long value out of short ones is weighed before it runs.
"""

import json
import secrets
import sys
import time

import jinja2
import jinja2.compiler
import jinja2.ext
import jinja2.filters
from jinja2.sandbox import ImmutableSandboxedEnvironment


class LimitExceeded(Exception):
    """`args[0]` is "time" or "size"."""


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what a model says, for training; transparent here."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


MAX_INT_BITS = 4096  # far beyond any count, small enough for every operation on it to be quick
MAX_WIDTH = 1000  # of an indent or a batch


def check_size(size, limit):
    if size > limit:
        raise LimitExceeded("size")


def text_size(value, limit):
    """At least the length of str(value); raises past the limit. Shared parts count each time they show."""
    size, stack = 0, [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            size += len(item)
        elif isinstance(item, dict):
            size += 4 * len(item)
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            size += 2 * len(item)
            stack.extend(item)
        else:
            size += 8
        check_size(size + len(stack), limit)
    return size


def replaced_size(text, old, new, count=-1):
    times = text.count(old)
    return len(text) + len(new) * (times if count is None or count < 0 else min(times, count))


def joined_size(separator, items, limit):
    return text_size(items, limit) + len(separator) * len(items)


class CodeGenerator(jinja2.compiler.CodeGenerator):
    """`a ~ b` calls the environment, which weighs it."""

    def visit_Concat(self, node, frame):
        self.write("environment.concatenate((")
        for value in node.nodes:
            self.visit(value, frame)
            self.write(", ")
        self.write("))")


class Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["+", "*", "**", "%"])
    code_generator_class = CodeGenerator
    max_bytes = 0

    def call_binop(self, context, operator, left, right):
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            check_size(bits, MAX_INT_BITS)
        elif operator == "*":
            for sized, times in ((left, right), (right, left)):
                if isinstance(sized, (str, list, tuple)) and isinstance(times, int):
                    check_size(len(sized) * times, self.max_bytes)
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            check_size(len(left) + len(right), self.max_bytes)
        elif operator == "%" and isinstance(left, str):
            raise jinja2.exceptions.SecurityError("string formatting is not available")
        return super().call_binop(context, operator, left, right)

    def call(self, context, function, *args, **kwargs):
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            if function.__name__ == "replace" and len(args) >= 2 and all(isinstance(a, str) for a in args[:2]):
                check_size(replaced_size(owner, *args), self.max_bytes)
            elif function.__name__ == "join" and len(args) == 1:
                args = (list(args[0]),)
                check_size(joined_size(owner, args[0], self.max_bytes), self.max_bytes)
        return super().call(context, function, *args, **kwargs)

    def is_safe_attribute(self, obj, attr, value):
        # Padding and formatting make long strings out of short ones.
        blocked = {"format", "format_map", "ljust", "rjust", "center", "zfill", "expandtabs", "translate"}
        if isinstance(obj, str) and attr in blocked:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def concatenate(self, values):
        text_size(values, self.max_bytes)
        return "".join(map(str, values))

    def weighed(self, value):
        if not isinstance(value, str):
            text_size(value, self.max_bytes)
        return value


def bounded_filters(environment):
    """Jinja's own filters, each weighed before it runs."""
    limit, filters = environment.max_bytes, jinja2.filters

    @jinja2.pass_eval_context
    def replace(eval_context, text, old, new, count=None):
        text, old, new = (str(environment.weighed(value)) for value in (text, old, new))
        check_size(replaced_size(text, old, new, count), limit)
        return filters.do_replace(eval_context, text, old, new, count)

    @jinja2.pass_eval_context
    def join(eval_context, value, d="", attribute=None):
        value = list(value)
        check_size(joined_size(str(environment.weighed(d)), value, limit), limit)
        return filters.sync_do_join(eval_context, value, d, attribute)

    def indent(text, width=4, first=False, blank=False):
        wide = width if isinstance(width, int) else len(width)
        check_size(wide, MAX_WIDTH)
        check_size(len(text) + wide * (text.count("\n") + 1), limit)
        return filters.do_indent(text, width, first, blank)

    def batch(value, linecount, fill_with=None):
        check_size(linecount, MAX_WIDTH)
        return filters.do_batch(value, linecount, fill_with)

    def total(iterable, attribute=None, start=0):
        numbers = [item if attribute is None else environment.getitem(item, attribute) for item in iterable]
        if not all(isinstance(number, (int, float)) for number in [start, *numbers]):
            raise jinja2.exceptions.SecurityError("only numbers have a sum")
        return sum(numbers, start)

    def string(value):
        return filters.soft_str(environment.weighed(value))

    return {"replace": replace, "join": join, "indent": indent, "batch": batch, "sum": total, "string": string}


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    if indent is not None:
        check_size(indent if isinstance(indent, int) else len(indent), 64)
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
    environment.finalize = environment.weighed
    environment.filters.update(bounded_filters(environment))
    environment.filters["tojson"] = lambda value, *args, **kwargs: to_json(environment.weighed(value), *args, **kwargs)
    for name in ("center", "format", "pprint", "slice", "urlize", "wordwrap", "xmlattr"):
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
