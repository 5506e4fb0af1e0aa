#!/usr/bin/env bash
# Surprise: several popular chat templates take a second system message without an error and leave its text out.
# gpt-oss shows only the first one, MiniMax-M2 too, and the DeepSeek-R1 distills show only the last of two in
# front. Agents send such messages all the time (a reminder, `system` beside `developer`), and neither an error
# nor the token count gives it away: the prompt is just shorter.
# Guessed wrong: "a template either renders a message or raises".
# Seen with jinja2 3.1.6 and the templates vendored in llama-cpp-python 0.3.36 (see the output below).
# Matters to: gateways that count or cut prompts; probes must look for the text, not for the absence of an error.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check --quiet)
"${pip[@]}" install transformers==5.23.0 jinja2==3.1.6
"${pip[@]}" download --no-deps --no-binary llama-cpp-python llama-cpp-python==0.3.36 --dest "$work"
tar xzf "$work"/llama_cpp_python-0.3.36.tar.gz -C "$work" --wildcards '*/models/templates/*.jinja'
cat > "$work/render.py" <<'PY'
import pathlib, sys
from transformers.utils.chat_template_utils import render_jinja_template

messages = [{"role": "system", "content": "zuvalek"}, {"role": "system", "content": "qomirat"},
            {"role": "user", "content": "hi"}]
for stem in ("openai-gpt-oss-120b", "MiniMax-M2", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "Qwen-Qwen3-0.6B"):
    template = next(pathlib.Path(sys.argv[1]).rglob(f"{stem}.jinja")).read_text()
    (text,), _ = render_jinja_template(conversations=[messages], chat_template=template,
                                       add_generation_prompt=True, bos_token="<s>", eos_token="</s>")
    print(stem, "first" if "zuvalek" in text else "-", "second" if "qomirat" in text else "-")
PY
said=$("$work/venv/bin/python" "$work/render.py" "$work" 2>/dev/null)
echo "$said"
diff <(echo "$said") - <<'SEEN'
openai-gpt-oss-120b first -
MiniMax-M2 first -
deepseek-ai-DeepSeek-R1-Distill-Qwen-32B - second
Qwen-Qwen3-0.6B first second
SEEN
