"""Renders Hugging Face chat templates; runs inside a worker process, which bounds what they cost.

`compile_template` is called once in a process, the function it returns once for each request.
"""

import codecs
import importlib
import json
import os.path
import time

import jinja2
import jinja2.compiler
import jinja2.debug
import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

from chat_forms import adapt, find_forms
from trusted_text import FINAL, TRUSTED, Text, concat, final, mask_of, trusted, uniform

# What Python and Jinja import or read at first use must be there before files can no longer be opened.
for _module in ("html", "pprint", "textwrap", "traceback", "unicodedata"):
    importlib.import_module(_module)
for _codec in ("unicode_escape", "utf-8", "ascii", "latin-1"):
    codecs.lookup(_codec)
time.strftime("%c")

# Roles are parts of control tokens in some templates (<|{{ role }}|>), so these count as the
# template's own words. Whoever sends messages may choose among them anyway.
ROLES = {role: trusted(role) for role in
         ("system", "developer", "user", "assistant", "tool", "function", "ipython", "observation", "model")}


class LimitExceeded(Exception):
    """The output is too long."""


class Generation(jinja2.ext.Extension):
    """{% generation %}: marks what a model says, for training; transparent here."""

    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class CodeGenerator(jinja2.compiler.CodeGenerator):
    """Makes each string of the template's source a Text, and each `+` and `~` one call for a whole chain."""

    def literal(self, text):
        literals = self.environment.literals
        name = literals.get(text)
        if name is None:
            name = literals[text] = f"literal_{len(literals)}"
        return name

    def visit_Const(self, node, frame):
        if type(node.value) is str:
            self.write(self.literal(node.value))
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node, frame):
        self.write(self.literal(node.data))

    def _output_child_to_const(self, node, frame, finalize):
        # Nothing is computed while compiling but what stands there.
        inner = node.node if isinstance(node, jinja2.nodes.Filter) and node.name == "safe" else node
        if not isinstance(inner, (jinja2.nodes.Const, jinja2.nodes.TemplateData)):
            raise jinja2.nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def _output_const_repr(self, group):
        text = "".join(group)
        return self.literal(text) if type(text) is str else repr(text)

    def visit_Operand(self, node, frame):
        # A comparison keeps nothing of what it compares with.
        if isinstance(node.expr, jinja2.nodes.Const) and type(node.expr.value) is str:
            self.write(f" {jinja2.compiler.operators[node.op]} {node.expr.value!r}")
        else:
            super().visit_Operand(node, frame)

    def visit_Getitem(self, node, frame):
        if isinstance(node.arg, jinja2.nodes.Const) and type(node.arg.value) is str:
            self.write("environment.getitem(")
            self.visit(node.node, frame)
            self.write(f", {node.arg.value!r})")
        else:
            super().visit_Getitem(node, frame)

    def write_chain(self, function, operands, frame):
        self.write(f"environment.{function}((")
        for operand in operands:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")

    def visit_Add(self, node, frame):
        operands = []
        while isinstance(node, jinja2.nodes.Add):
            operands.append(node.right)
            node = node.left
        self.write_chain("add", [node, *reversed(operands)], frame)

    def visit_Concat(self, node, frame):
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_Concat(node, frame)
        else:
            self.write_chain("concatenate", node.nodes, frame)


class Formatter(SandboxedFormatter):
    """str.format; the pattern's own text and plain fields of text keep their masks."""

    def vformat(self, format_string, args, kwargs):
        text = super().vformat(format_string, args, kwargs)
        own = trusted if mask_of(format_string).count(TRUSTED) == len(format_string) else str
        pieces, index = [], 0
        try:
            for literal, field, spec, conversion in self.parse(str(format_string)):
                pieces.append(own(literal))
                if field is None:
                    continue
                if field == "":
                    field, index = str(index), index + 1
                value, _ = self.get_field(field, args, kwargs)
                if not isinstance(value, str) or spec or conversion:
                    value = self.format_field(self.convert_field(value, conversion), spec)
                pieces.append(value)
        except Exception:  # a pattern inside a pattern, for one
            return text
        followed = concat(pieces)
        return followed if str.__eq__(followed, text) else text


class Environment(ImmutableSandboxedEnvironment):
    code_generator_class = CodeGenerator
    concat = staticmethod(concat)
    literals = None  # text of the source -> the name of its Text in the compiled code

    def getattr(self, obj, attribute):
        if type(obj) is dict and attribute not in DICT_ATTRIBUTES:
            # What Jinja does, without the exception that it catches on its way.
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        if type(obj) is str and attribute in FOLLOWED_METHODS:
            obj = Text(obj)  # may be given text of the template to put in
        if attribute in SAFE_ATTRIBUTES.get(type(obj), ()):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def wrap_str_format(self, value):
        owner, name = getattr(value, "__self__", None), getattr(value, "__name__", "")
        if type(owner) is not Text or name not in ("format", "format_map"):
            return super().wrap_str_format(value)
        formatter = Formatter(self)
        if name == "format_map":
            return lambda mapping: formatter.vformat(owner, (), mapping)
        return lambda *args, **kwargs: formatter.vformat(owner, args, kwargs)

    @staticmethod
    def add(values):
        """values[0] + values[1] + ..."""
        for value in values:
            if type(value) is not str and type(value) is not Text:
                break
        else:
            return concat(values)
        result = values[0]
        for value in values[1:]:
            result = result + value
        return result

    @staticmethod
    def concatenate(values):
        """values[0] ~ values[1] ~ ..."""
        return concat([value if type(value) is str or type(value) is Text else str(value) for value in values])


DICT_ATTRIBUTES = frozenset(dir(dict))
TEXT_METHODS = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))
# What the sandbox would allow after looking long.
SAFE_ATTRIBUTES = {
    str: TEXT_METHODS,
    Text: TEXT_METHODS,
    jinja2.runtime.LoopContext: frozenset(["first", "last", "index", "index0", "revindex", "revindex0", "length"]),
}
# partition, because str gives back the separator that it was given: the template's for a request's.
FOLLOWED_METHODS = frozenset(["replace", "join", "format", "format_map", "partition", "rpartition"])


# Jinja's filters that would lose a mask on their way.


@jinja2.pass_eval_context
def replace(eval_context, s, old, new, count=None):
    if eval_context.autoescape:
        return jinja2.filters.do_replace(eval_context, s, old, new, count)
    return Text(s).replace(str(old), str(new), -1 if count is None else count)


@jinja2.pass_eval_context
def join(eval_context, value, d="", attribute=None):
    if eval_context.autoescape:
        return jinja2.filters.sync_do_join(eval_context, value, d, attribute)
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(eval_context.environment, attribute), value)
    return Text(d).join(map(str, value))


def title(s):
    return uniform(Text(s), jinja2.filters.do_title(s))


def indent(s, width=4, first=False, blank=False):
    if hasattr(s, "__html__"):
        return jinja2.filters.do_indent(s, width, first, blank)
    space = width if isinstance(width, str) else " " * width
    newline = trusted("\n")
    lines = Text(s + newline).splitlines()
    lines[1:] = [space + line if line or blank else line for line in lines[1:]]
    text = newline.join(lines)
    return space + text if first else text


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def strftime_now(format):
    return time.strftime(format)


def make_environment():
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.literals = {}
    environment.filters.update(replace=replace, join=join, title=title, indent=indent, tojson=to_json)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    environment.globals.pop("lipsum", None)
    return environment


def load(environment, source):
    code = environment.compile(source)
    namespace = {name: trusted(text) for text, name in environment.literals.items()}
    namespace.update(environment=environment, __file__="chat template")
    exec(code, namespace)
    return environment.template_class._from_namespace(environment, namespace, environment.make_globals(None))


def continued(generate, messages):
    """What `generate` gives up to where the last message's content ended."""
    holder, key = messages[-1], "content"
    if isinstance(holder.get(key), list):
        texts = [part for part in holder[key] if isinstance(part, dict) and "text" in part]
        if not texts:
            holder[key] = texts = [{"type": "text", "text": ""}]
        holder, key = texts[-1], "text"
    content = holder.get(key) or ""
    if not content and messages[-1].get("tool_calls"):
        raise_exception("continue_final_message: the final message ends with its tool calls")

    def showing(text):
        holder[key] = text
        return generate()

    text = showing(final(content))
    end = text._mask.rfind(FINAL) + 1
    if end == 0 and content.strip():
        # The template did something with it that is not followed: it ends where a longer one goes on.
        end = len(os.path.commonprefix([text, showing(content + "\ue000")]))
        if end == len(text):
            raise_exception("continue_final_message: the template does not show the final message")
    elif end == 0:
        # Nothing of it is shown: it ends where something would begin.
        text = showing(final("x"))
        end = text._mask.rfind(FINAL)
        if end < 0:
            raise_exception("continue_final_message: the template does not show the final message")
    return text[:end]


def compile_template(source, bos_token, eos_token, max_bytes):
    """Gives (render, forms): a function, and one that finds what adapt() needs to know of the template."""
    template = load(make_environment(), source)
    bos_token, eos_token = trusted(bos_token), trusted(eos_token)
    ours = {"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token"}
    reserved = ours | {"raise_exception", "strftime_now"}

    def generate(messages, tools, kwargs, add_generation_prompt):
        for message in messages:
            role = message.get("role")
            if type(role) is str and role in ROLES:
                message["role"] = ROLES[role]
        variables = dict(kwargs)
        variables.update(messages=messages, tools=tools, documents=None, bos_token=bos_token, eos_token=eos_token,
                         add_generation_prompt=add_generation_prompt)
        pieces, size = [], 0
        for piece in template.root_render_func(template.new_context(variables)):
            size += len(piece)
            if size > max_bytes:
                raise LimitExceeded
            pieces.append(piece)
        return concat(pieces)

    def render(messages_json, tools_json, kwargs_json, add_generation_prompt, continue_final_message, forms):
        messages = json.loads(messages_json)
        tools = json.loads(tools_json) if tools_json else None
        kwargs = json.loads(kwargs_json) if kwargs_json else {}
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ValueError("messages must be an array of objects")
        if not isinstance(kwargs, dict) or not reserved.isdisjoint(kwargs):
            raise ValueError("template arguments may not replace " + ", ".join(sorted(reserved)))
        if continue_final_message and (add_generation_prompt or not messages):
            raise ValueError("continue_final_message needs a message and excludes add_generation_prompt")
        messages = adapt(messages, forms)
        if continue_final_message:
            text = continued(lambda: generate(messages, tools, kwargs, False), messages)
        else:
            text = generate(messages, tools, kwargs, add_generation_prompt)
        encoded = text.encode("utf-8", "replace")
        if len(encoded) > max_bytes:
            raise LimitExceeded
        return encoded, text._mask

    def forms():
        def attempt(messages, tools, forms):
            try:
                return str(generate(adapt(json.loads(json.dumps(messages)), forms), tools, {}, False))
            except Exception:  # whatever a template raises
                return None

        return find_forms(attempt)

    return render, forms


def _warm_up():
    """Takes the ways of an error and of each kind of filter once."""
    render, _ = compile_template("{{ messages | pprint | wordwrap(3) | striptags | urlize }}{{ '\\n' }}", "", "", 10000)
    render("[]", "", "", False, False, 0)
    for source in ("{% if %}", "{{ 1 + none }}"):
        try:
            compile_template(source, "", "", 100)[0]("[]", "", "", False, False, 0)
        except Exception:
            pass


_warm_up()
