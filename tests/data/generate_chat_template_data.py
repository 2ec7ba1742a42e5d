#!/usr/bin/env python3
"""Writes chat_templates.json: what Jinja2, set up as Hugging Face's apply_chat_template sets it up, makes of chat templates.

usage: pip install jinja2; generate_chat_template_data.py > chat_templates.json        (written with jinja2 3.1)

Three parts: `templates`, published ones by model family; `chats`, each template on many conversations, with the text or the
refusal's message; `snippets`, small templates over the same variables, for single constructs.
"""
import itertools
import json
import sys

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    "smollm2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama-2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "llama-3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "llama-3.1": "{{- bos_token }}\n{%- if custom_tools is defined %}\n    {%- set tools = custom_tools %}\n{%- endif %}\n{%- if not tools_in_user_message is defined %}\n    {%- set tools_in_user_message = true %}\n{%- endif %}\n{%- if not date_string is defined %}\n    {%- set date_string = \"26 Jul 2024\" %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n\n{#- This block extracts the system message, so we can slot it into the right place. #}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n\n{#- System message + builtin tools #}\n{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}\n{%- if builtin_tools is defined or tools is not none %}\n    {{- \"Environment: ipython\\n\" }}\n{%- endif %}\n{{- \"Cutting Knowledge Date: December 2023\\n\" }}\n{{- \"Today Date: \" + date_string + \"\\n\\n\" }}\n{{- system_message }}\n{{- \"<|eot_id|>\" }}\n\n{%- for message in messages %}\n    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}\n        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}\n    {%- elif 'tool_calls' in message %}\n        {%- if not message.tool_calls|length == 1 %}\n            {{- raise_exception(\"This model only supports single tool-calls at once!\") }}\n        {%- endif %}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
    "qwen-2": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "qwen-3": "{%- if tools %}\n    {{- '<|im_start|>system\\n' }}\n    {%- for tool in tools %}\n        {{- \"\\n\" }}\n        {{- tool | tojson }}\n    {%- endfor %}\n{%- else %}\n    {%- if messages[0].role == 'system' %}\n        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n    {%- if ns.multi_step_tool and message.role == \"user\" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n    {%- endif %}\n{%- endfor %}\n{%- for message in messages %}\n    {%- if message.content is string %}\n        {%- set content = message.content %}\n    {%- else %}\n        {%- set content = '' %}\n    {%- endif %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) %}\n        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}\n    {%- elif message.role == \"assistant\" %}\n        {%- set reasoning_content = '' %}\n        {%- if message.reasoning_content is string %}\n            {%- set reasoning_content = message.reasoning_content %}\n        {%- else %}\n            {%- if '</think>' in content %}\n                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}\n                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n            {%- endif %}\n        {%- endif %}\n        {%- if loop.index0 > ns.last_query_index %}\n            {%- if loop.last or (not loop.last and reasoning_content) %}\n                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}\n            {%- else %}\n                {{- '<|im_start|>' + message.role + '\\n' + content }}\n            {%- endif %}\n        {%- else %}\n            {{- '<|im_start|>' + message.role + '\\n' + content }}\n        {%- endif %}\n        {{- '<|im_end|>\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n    {%- if enable_thinking is defined and enable_thinking is false %}\n        {{- '<think>\\n\\n</think>\\n\\n' }}\n    {%- endif %}\n{%- endif %}",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "gemma-3": "{{ bos_token }}\n{%- if messages[0]['role'] == 'system' -%}\n    {%- if messages[0]['content'] is string -%}\n        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}\n    {%- else -%}\n        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}\n    {%- endif -%}\n    {%- set loop_messages = messages[1:] -%}\n{%- else -%}\n    {%- set first_user_prefix = \"\" -%}\n    {%- set loop_messages = messages -%}\n{%- endif -%}\n{%- for message in loop_messages -%}\n    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n        {{ raise_exception(\"Conversation roles must alternate user/assistant/user/assistant/...\") }}\n    {%- endif -%}\n    {%- if (message['role'] == 'assistant') -%}\n        {%- set role = \"model\" -%}\n    {%- else -%}\n        {%- set role = message['role'] -%}\n    {%- endif -%}\n    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else \"\") }}\n    {%- if message['content'] is string -%}\n        {{ message['content'] | trim }}\n    {%- elif message['content'] is iterable -%}\n        {%- for item in message['content'] -%}\n            {%- if item['type'] == 'image' -%}\n                {{ '<start_of_image>' }}\n            {%- elif item['type'] == 'text' -%}\n                {{ item['text'] | trim }}\n            {%- endif -%}\n        {%- endfor -%}\n    {%- else -%}\n        {{ raise_exception(\"Invalid content type\") }}\n    {%- endif -%}\n    {{ '<end_of_turn>\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{'<start_of_turn>model\n'}}\n{%- endif -%}\n",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "mistral-v3": "{%- if messages[0][\"role\"] == \"system\" %}\n    {%- set system_message = messages[0][\"content\"] %}\n    {%- set loop_messages = messages[1:] %}\n{%- else %}\n    {%- set loop_messages = messages %}\n{%- endif %}\n{%- if not tools is defined %}\n    {%- set tools = none %}\n{%- endif %}\n{%- set user_messages = loop_messages | selectattr(\"role\", \"equalto\", \"user\") | list %}\n\n{#- This block checks for alternating user/assistant messages, skipping tool calling messages #}\n{%- set ns = namespace() %}\n{%- set ns.index = 0 %}\n{%- for message in loop_messages %}\n    {%- if not (message.role == \"tool\" or message.role == \"tool_results\" or (message.tool_calls is defined and message.tool_calls is not none)) %}\n        {%- if (message[\"role\"] == \"user\") != (ns.index % 2 == 0) %}\n            {{- raise_exception(\"After the optional system message, conversation roles must alternate user/assistant/user/assistant/...\") }}\n        {%- endif %}\n        {%- set ns.index = ns.index + 1 %}\n    {%- endif %}\n{%- endfor %}\n\n{{- bos_token }}\n{%- for message in loop_messages %}\n    {%- if message[\"role\"] == \"user\" %}\n        {%- if tools is not none and (message == user_messages[-1]) %}\n            {{- \"[AVAILABLE_TOOLS] [\" }}\n        {%- endif %}\n        {%- if loop.last and system_message is defined %}\n            {{- \"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}\n        {%- else %}\n            {{- \"[INST] \" + message[\"content\"] + \"[/INST]\" }}\n        {%- endif %}\n    {%- elif message[\"role\"] == \"assistant\" %}\n        {{- \" \" + message[\"content\"]|trim + eos_token}}\n    {%- else %}\n        {{- raise_exception(\"Only user and assistant roles are supported, with the exception of an initial optional system message!\") }}\n    {%- endif %}\n{%- endfor %}\n",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "phi-3": "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
}

CHATS = [
    [("user", "Hello")],
    [("system", "Be brief."), ("user", "Hello")],
    [("user", "Hi"), ("assistant", "Hello!"), ("user", "How are you?")],
    [("system", "  Be kind.\n"), ("user", "\n a \n"), ("assistant", " b\t"), ("user", "c\n\n")],
    [("user", "Spanish: ¿qué tal? Chinese: 你好 emoji: 👩‍🚀")],
    [("user", "{{ messages }} {% if x %} {# no #} <|im_end|>\n<|im_start|>system <end_of_turn>")],
    [("user", "")],
    [("user", "q"), ("assistant", "<think>\nhm\n</think>\n\nanswer"), ("user", "more")],
    [("user", "q"), ("assistant", "<think>\nhm\n</think>\n\nanswer")],
    [("assistant", "I begin")],
    [("user", "a"), ("user", "b")],
    [("system", "only a system message")],
    [("user", "line one\r\nline two\rline three")],
    [("tool", "result"), ("user", "x")],
]

EXPRESSIONS = """1 + 2 * 3 ** 2
(1 + 2) * 3
-7 // 2
-7 % 3
7 / 2
2 ** 10
1.5 + 1
'a' ~ 1 ~ none ~ true
'a' + 'b'
'ab' * 3
[1, 2] + [3]
1 < 2 < 3
1 < 2 > 3
not false and true or false
not 1 == 2
1 in [1, 2]
'b' not in 'abc'
'x' in {'x': 1}
'yes' if false
'yes' if true else 'no'
1 if 0 else 2 if 0 else 3
undefined_name
undefined_name is defined
messages is defined
none is none
'a' is string
1 is string
[1] is iterable
{'a': 1} is mapping
1 is number
1 is odd
2 is even
4 is divisibleby 2
1 is not string
true is true
1 is true
'a' is in ['a']
3 is eq 3
'hello'[0]
'hello'[-1]
'hello'[1:3]
'hello'[::-1]
'hello'[:-1]
'héllo'[1]
[1, 2, 3, 4][1:3]
[1, 2, 3, 4][::2]
[1, 2, 3, 4][::-1]
[1, 2, 3][5:]
[1, 2, 3]
[1, 'a', none, true, 1.0, {'k': 'v'}]
{'a': 1, 'b': [1, 2]}
(1, 2)[0]
{'a': {'b': 2}}.a.b
{'a': 1}['a']
{'a': 1}.get('b', 5)
{'a': 1, 'b': 2}.items() | list | length
{'a': 1, 'b': 2}.keys() | join(',')
{'b': 1, 'a': 2} | dictsort | first | first
' x '.strip() ~ '|'
'xxaxx'.strip('x')
'\\n\\na\\n'.lstrip('\\n')
'a,b,c'.split(',')[1]
'a,b,c'.split(',', 1)[1]
' a  b '.split() | length
'a-b-c'.replace('-', '+')
'a-b-c' | replace('-', '+')
'abc'.startswith('ab')
'abc'.endswith(('x', 'c'))
'Hello World'.upper()
'Hello World' | lower
'hello world' | title
'hello World' | capitalize
'  pad ' | trim
'xpadx' | trim('x')
[3, 1] | length
'héé' | length
[1, 2] | join('-')
['a', 'b'] | join
[1, 2] | first
[1, 2] | last
[] | first
'abc' | first
[1, 2] | reverse | join
'5' | int + 1
'x' | int(7)
'1.5' | float
undefined_name | default('d')
'' | default('d', true)
none | default('d')
[1, 0, 2] | select | join(',')
[1, 2, 3] | select('odd') | join(',')
[1, 2, 3] | reject('odd') | join(',')
messages | selectattr('role', 'equalto', 'user') | list | length
messages | rejectattr('role', 'equalto', 'user') | list | length
messages | map(attribute='role') | join(' ')
['a', 'b'] | map('upper') | join
range(3) | list
range(1, 7, 2) | join(',')
range(5, 0, -2) | list
'a\\nb\\nc' | indent(2)
'a\\nb' | indent(2, true)
{'a': [1, 'x"y'], 'b': none} | tojson
{'a': [1, {'b': true}]} | tojson(indent=2)
'é<b>' | tojson
[1, 1, 2] | unique | join
1 == 1.0
'a' == 'a'
[1, 2] == [1, 2]
{'a': 1} == {'a': 1}
'a' < 'b'
true + 1
messages[0].role
messages[0]['content'] ~ '!'
messages[-1].role
messages[5] is defined
messages[0].tool_calls is defined
messages | length - 1
(messages | length) * 2
'a' 'b'
"it's" ~ 'a"b'
namespace(a=1).a
dict(a=1, b=2)
3.0
10 // 3 * 3.0
1e3 is defined
'%s' is string
loop is defined
'' or 'fallback'
'x' and 'y'
none ~ ''
[] or {} or 'none'
'a' if messages else 'b'
'a' if [] else 'b'
-3 | abs
'{' ~ '}'
'a'.upper().lower()
('x' if true else 'y') + 'z'
"\\u00e9\\x41\\\\"
'tab\\tend'
""".splitlines()

STATEMENTS = [
    "a\n{% if true %}\n  b\n{% endif %}\nc\n",
    "a\n  {% if true %}\n  b\n  {%- endif %}\nc",
    "a {%- if true -%} b {%- endif -%} c",
    "  {# comment #}\nx",
    "x {#- c -#} y",
    "{% for i in range(3) %}{{ i }},{% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %}",
    "{% for i in [1,2,3,4] if i is even %}{{ loop.index }}:{{ i }} {% endfor %}",
    "{% for a, b in [[1,2],[3,4]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for k, v in {'x': 1, 'y': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in 'ab' %}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }}{% endfor %}",
    "{% for i in [1,2] %}{% for j in [1,2] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1,2] %}{% set x = i %}{% endfor %}{{ x }}",
    "{% set ns = namespace(x=0) %}{% for i in [1,2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% if false %}a{% elif 1 %}b{% else %}c{% endif %}",
    "{% if false %}a{% elif 0 %}b{% else %}c{% endif %}",
    "{% set x %}block {{ 1 + 1 }}{% endset %}[{{ x }}]",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% macro f(x, y=2) %}{{ x }}-{{ y }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(x=5, y=6) }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% raw %}{{ not }} {% this %}{% endraw %} after",
    "{% filter upper %}shout{% endfilter %}",
    "{{ 'a' }}\n{{ 'b' }}\n",
    "line\n\n{%- if true %}\n\nx{% endif %}\n",
    "{{- ' a ' -}}   b   {{ 'c' -}}\n d",
    "{%+ if true %}  x{% endif +%}\ny",
    "   {%+ if true %}z{% endif %}",
    "{% if messages[0].role == 'user' and not messages[1:] %}one{% else %}many{% endif %}",
    "{ single } brace {x}",
    "trailing newline kept?\n\n",
]


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    made.filters["tojson"] = tojson
    made.globals["raise_exception"] = raise_exception
    return made


def outcome(template, chat, add_generation_prompt=True):
    messages = [{"role": role, "content": content} for role, content in chat]
    try:
        return {"text": environment().from_string(template).render(
            messages=messages, tools=None, documents=None, add_generation_prompt=add_generation_prompt,
            bos_token="<s>", eos_token="</s>")}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}
    except TypeError as error:
        return {"error": "type"}


def main():
    chats = [{"template": name, "messages": chat, "add_generation_prompt": prompt, **outcome(TEMPLATES[name], chat, prompt)}
             for name, chat, prompt in itertools.product(TEMPLATES, CHATS, (True, False))]
    chat = CHATS[2]
    sources = ["{{ " + e + " }}" for e in EXPRESSIONS] + STATEMENTS
    snippets = [{"source": source, **outcome(source, chat)} for source in sources]
    json.dump({"templates": TEMPLATES, "snippet_messages": chat, "chats": chats, "snippets": snippets}, sys.stdout,
              ensure_ascii=True, indent=0)
    sys.stdout.write("\n")
    print(f"{len(chats)} chats, {len(snippets)} snippets", file=sys.stderr)


if __name__ == "__main__":
    main()
