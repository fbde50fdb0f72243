"""Chat templates render as transformers renders them: a dozen families' ways to write one."""

import json
import os
import subprocess

from transformers.utils.chat_template_utils import render_jinja_template

# Written for these tests after what each family's template does, not copied from one.
TEMPLATES = {
    "chatml": """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "smollm2": """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "llama-2": """{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}{% else %}{% set content = m['content'] %}{% endif %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama-3": """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    "llama-3.1 tools": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday Date: " + date_string + "\n\n" }}
{%- if tools is not none and tools is defined %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable and message.content is not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
""",
    "mistral": """{{ bos_token }}{% set ns = namespace(user=none) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.user = loop.index0 %}{% endif %}{% endfor %}{% for m in messages %}{% if m.role == 'user' %}{% if tools and loop.index0 == ns.user %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST] {{ m.content }}[/INST]{% elif m.tool_calls %}[TOOL_CALLS] [{% for c in m.tool_calls %}{{ c.function | tojson }}{{ ', ' if not loop.last }}{% endfor %}]{{ eos_token }}{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ {'content': m.content} | tojson }}[/TOOL_RESULTS]{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% elif not loop.first %}{{ raise_exception('a system turn comes first') }}{% endif %}{% endfor %}""",
    "qwen2.5 tools": """{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0]['role'] == 'system' %}
        {{- messages[0]['content'] }}
    {%- endif %}
    {{- "\n\n# Tools\n\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools><|im_end|>\n" }}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\n<tool_call>\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\n<tool_response>\n' }}
        {{- message.content }}
        {{- '\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if message['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    "phi-3": """{% for message in messages %}{% if message['role'] in ['system', 'user', 'assistant'] %}{{ '<|' ~ message['role'] ~ '|>\n' ~ message['content'] ~ '<|end|>\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "deepseek": """{% set ns = namespace(system='', first=true) %}{%- for m in messages %}{%- if m.role == 'system' %}{%- if ns.first %}{% set ns.system = ns.system + m.content %}{% set ns.first = false %}{%- else %}{% set ns.system = ns.system + '\n\n' + m.content %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system }}{%- for m in messages %}{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}{%- elif m.role == 'assistant' and m.content is not none %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}{%- endif %}{%- endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}""",
    "command-r": """{{ bos_token }}{%- macro turn(role, text) -%}<|START|><|{{ role | upper }}|>{{ text }}<|END|>{%- endmacro -%}{% for m in messages %}{{ turn('chatbot' if m.role == 'assistant' else m.role, (m.content or '') | trim) }}{% endfor %}{% if tools %}{% for t in tools %}def {{ t.function.name }}({% for name, p in t.function.parameters.properties.items() %}{{ name }}: {{ p.type }}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}{% endif %}{% if add_generation_prompt %}<|START|><|CHATBOT|>{% endif %}""",
    "granite": """{%- for message in messages %}
    {%- if loop.index0 > 100 %}{% break %}{% endif %}
    {%- if message['role'] == 'tool' %}{% continue %}{% endif %}
{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + (message['content'] | default('', true)) + '<|end_of_text|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_of_role|>assistant<|end_of_role|>' }}
{%- endif %}""",
    "assistant marks": """{% for message in messages %}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}{% endgeneration %}{% else %}{{ message | tojson(ensure_ascii=True, indent=2, sort_keys=True) }}{% endif %}{{ '\n' }}{% endfor %}""",
}

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather <now> & später",
          "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                         "required": ["city"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}]}
U = {"role": "user", "content": "What is 2 < 3 & \"four\"?"}
A = {"role": "assistant", "content": "  Yes, <b>it</b> is.\n"}
S = {"role": "system", "content": "Be brief. Ünïcödé 漢字 🙂"}
CONVERSATIONS = [
    [U], [S, U], [U, A, U], [S, U, A, U, A], [U, {"role": "user", "content": ""}], [U, A, S], [U, U], [A],
    [S, U, CALL, {"role": "tool", "tool_call_id": "c1", "content": "{\"sky\": \"grau\"}"}, U],
    [U, CALL, {"role": "tool", "content": "a"}, {"role": "tool", "content": "b"}, A],
]


def cases():
    for name, source in TEMPLATES.items():
        for messages in CONVERSATIONS:
            for tools in (None, TOOLS):
                for prompt in (True, False):
                    yield name, {"template": source, "bos": "<s>", "eos": "</s>", "messages": messages, "tools": tools,
                                 "add_generation_prompt": prompt, "continue_final_message": False}


def expected(case):
    try:
        rendered, _ = render_jinja_template(
            [case["messages"]], tools=case["tools"], chat_template=case["template"],
            add_generation_prompt=case["add_generation_prompt"], bos_token=case["bos"], eos_token=case["eos"])
    except Exception as error:  # what a template raises, in whatever way
        return {"error": str(error)}
    return {"text": rendered[0]}


def test_every_family_renders_as_transformers_does():
    names, inputs = zip(*cases())
    lines = "".join(json.dumps(one) + "\n" for one in inputs)
    out = subprocess.run([os.environ["THERMOCLINE_BUILD"] + "/chat_template_probe"], input=lines.encode(),
                         capture_output=True, check=True)
    got = [json.loads(line) for line in out.stdout.decode().splitlines()]
    assert len(got) == len(inputs)
    wrong, num_errors = [], 0
    for name, case, ours in zip(names, inputs, got):
        want = expected(case)
        num_errors += "error" in want
        same = "error" in ours if "error" in want else ours == want
        if not same:
            wrong.append((name, case["messages"], want, ours))
    assert wrong == []
    assert len(TEMPLATES) >= 12
    assert 0 < num_errors < len(inputs) / 3
