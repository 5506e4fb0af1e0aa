#!/usr/bin/env bash
# Surprise: mlx_lm.server makes call ids that the served model's own template refuses. The server gives each tool
# call a UUID of 36 characters; Mistral-Small-3.2's and Mistral-Nemo's templates raise for ids that are not nine
# letters and digits. The first tool call works, the client sends the id back as the protocol asks, and from the
# second request on every turn of the session fails.
# Guessed wrong: "ids are opaque: what the server gave out, it takes back".
# Seen with mlx-lm 0.32.2, mlx 0.32.0 or newer, and the template vendored in llama-cpp-python 0.3.36: id of 36
# characters; "Tool call IDs should be alphanumeric strings with length 9!".
# Matters to: gateways and servers that render histories; ids must be mapped alike in calls and results.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check --quiet)
mlx=mlx; [ "$(uname)" = Linux ] && mlx='mlx[cpu]'
"${pip[@]}" install "$mlx" mlx-lm==0.32.2 transformers==5.23.0 jinja2==3.1.6
"${pip[@]}" download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 --dest "$work"
tar xzf "$work"/llama_cpp_python-0.3.36.tar.gz -C "$work" --wildcards '*/models/templates/Mistral-Small-3.2*.jinja'
cat > "$work/turn.py" <<'PY'
import json, pathlib, sys
from mlx_lm.server import ToolCallFormatter
from transformers.utils.chat_template_utils import render_jinja_template

parse = lambda text, tools: {"name": "ls", "arguments": json.loads(text)}
(call,) = ToolCallFormatter(parse, None)(['{"path": "."}'])
print("id of", len(call["id"]), "characters")
call["function"]["arguments"] = json.loads(call["function"]["arguments"])  # as the server does before it renders
messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "a.py"}]
template = next(pathlib.Path(sys.argv[1]).rglob("Mistral-Small-3.2*.jinja")).read_text()
try:
    render_jinja_template(conversations=[messages], chat_template=template, bos_token="<s>", eos_token="</s>")
    print("rendered")
except Exception as error:
    print(type(error).__name__, error)
PY
said=$("$work/venv/bin/python" "$work/turn.py" "$work" 2>/dev/null)
echo "$said"
grep -q '^id of 36 characters$' <<<"$said"
grep -q 'Tool call IDs should be alphanumeric strings with length 9!' <<<"$said"
