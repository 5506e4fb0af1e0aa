#!/usr/bin/env bash
# Surprise: a chat template that a model ships can be one that transformers' own sandbox refuses for every
# conversation with tool calls. Kimi-K2-Instruct's template appends to a list; transformers renders in jinja2's
# ImmutableSandboxedEnvironment, where `list.append` is "unsafe". Plain conversations render, so nothing is
# noticed until the first tool call, and then every later request of that session fails.
# Guessed wrong: "if a template renders a conversation and its tools, it renders its tool calls".
# Seen with transformers 5.23.0, jinja2 3.1.6 and the template vendored in llama-cpp-python 0.3.36:
#   plain: rendered / with a call: SecurityError: access to attribute 'append' of 'list' object is unsafe.
# Matters to: servers that count or render with transformers; they must probe calls, not only tools.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install transformers==5.23.0 jinja2==3.1.6
"${pip[@]}" download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 --dest "$work"
tar xzf "$work"/llama_cpp_python-0.3.36.tar.gz -C "$work" --wildcards '*/models/templates/Kimi-K2-Instruct.jinja'
cat > "$work/render.py" <<'PY'
import pathlib, sys
from transformers.utils.chat_template_utils import render_jinja_template

template = next(pathlib.Path(sys.argv[1]).rglob("Kimi-K2-Instruct.jinja")).read_text()
call = {"type": "function", "id": "functions.ls:0", "function": {"name": "ls", "arguments": {"path": "."}}}
plain = [{"role": "user", "content": "hi"}]
called = [*plain, {"role": "assistant", "content": "", "tool_calls": [call]},
          {"role": "tool", "tool_call_id": "functions.ls:0", "content": "a.py"}]
for name, messages in (("plain", plain), ("with a call", called)):
    try:
        render_jinja_template(conversations=[messages], chat_template=template, add_generation_prompt=True)
        print(name, "rendered")
    except Exception as error:
        print(name, type(error).__name__, error)
PY
said=$("$work/venv/bin/python" "$work/render.py" "$work" 2>/dev/null)
echo "$said"
grep -q '^plain rendered$' <<<"$said"
grep -q "^with a call SecurityError access to attribute 'append' of 'list' object is unsafe" <<<"$said"
