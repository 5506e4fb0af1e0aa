"""Makes small models of random weights that the unmodified mlx_lm.server loads in a second or two.

`python -m supervisor.model.tiny --out DIR` makes one. The gateway runs it as a process of its own, because
making a model imports mlx. For the same arguments and library versions the files are the same, byte for byte,
on every platform.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filelock import FileLock

#: File in every folder made here, which says what the folder was made from.
STAMP = "tiny.json"
#: Bytes of a key and a value, in float32, for each unit of heads x head size.
_BYTES_PER_UNIT = 2 * 4
#: The architectures that can be made, and the kinds of their layers.
ARCHITECTURES = {
    "qwen3": "full attention",
    "llama": "full attention",
    "gemma3_text": "every second layer has a sliding window",
    "qwen3_next": "every second layer is linear attention (gated delta net), whose state does not grow",
}


@dataclass(frozen=True, slots=True)
class TinySpec:
    """The model to make; its fields are the command's options. Raises ValueError if no such model exists."""

    architecture: str = "qwen3"
    #: Each costs 0.4 ms per token on a CPU: 2 layers give 1000 tokens/s, 64 give 30 to 50.
    layers: int = 2
    #: Size of the hidden state: smaller for small weights and a large cache, larger for slow prompts.
    hidden: int = 64
    #: KV cache bytes of one token in float32, over all layers whose cache grows with the prompt. The windowed
    #: layers of gemma3_text count, though they grow only up to the window. 0 means 1024 per layer. Attention
    #: needs bytes per token x tokens^2 / 2 operations, of which a CPU does some 3e9 a second: to fill memory
    #: soon, make tokens large rather than prompts long.
    kv_bytes_per_token: int = 0
    context: int = 32768
    window: int = 512  # gemma3_text only
    vocab: int = 1024  # entries, markers included; a script adds its own
    seed: int = 0
    #: Always answer with this text, then end the turn. Empty (and no say_with_tools): endless random text.
    say: str = ""
    #: Answer with this text instead if the request has tools and its last message is not a tool result.
    say_with_tools: str = ""

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}")
        if self.layers < self.period or self.layers % self.period:
            raise ValueError(f"{self.architecture} needs a multiple of {self.period} layers")
        unit = self.cached_layers * _BYTES_PER_UNIT * 16  # head sizes are multiples of 16
        if self.kv_bytes_per_token < 0 or self.kv_bytes_per_token % unit:
            raise ValueError(f"kv_bytes_per_token must be a multiple of {unit} with these layers")
        if self.hidden < 16:
            raise ValueError("hidden must be at least 16")
        if self.scripted and self.hidden < 64:
            raise ValueError("hidden must be at least 64 to say a text, so that its tokens can differ")
        if self.vocab < 300:
            raise ValueError("vocab must be at least 300: every byte and the markers have an entry")
        if self.context < 1 or self.window < 1:
            raise ValueError("context and window must be at least 1")

    @property
    def scripted(self) -> bool:
        return bool(self.say or self.say_with_tools)

    @property
    def period(self) -> int:
        """Number of layers after which the kinds of layers repeat."""
        return 2 if self.architecture in ("gemma3_text", "qwen3_next") else 1

    @property
    def cached_layers(self) -> int:
        """Layers whose cache grows with the prompt."""
        return self.layers // 2 if self.architecture == "qwen3_next" else self.layers

    @property
    def heads(self) -> tuple[int, int]:
        """Number and size of heads: few and large, since attention scores cost heads x step x context."""
        per_layer = self.kv_bytes_per_token // self.cached_layers or 1024
        width = per_layer // _BYTES_PER_UNIT
        size = next(size for size in (256, 128, 64, 32, 16) if width % size == 0)
        return width // size, size

    def config(self, vocab_size: int, eos: Sequence[int]) -> dict[str, Any]:
        """The content of config.json."""
        heads, head_dim = self.heads
        common = {
            "model_type": self.architecture,
            "vocab_size": vocab_size,
            "eos_token_id": list(eos),
            "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": head_dim,
            "max_position_embeddings": self.context,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float32",
        }
        return common | _PARTICULAR[self.architecture](self)


_PARTICULAR: dict[str, Callable[[TinySpec], dict[str, Any]]] = {
    "qwen3": lambda spec: {"architectures": ["Qwen3ForCausalLM"]},
    "llama": lambda spec: {"architectures": ["LlamaForCausalLM"]},
    "gemma3_text": lambda spec: {
        "architectures": ["Gemma3ForCausalLM"],
        "sliding_window": spec.window,
        "sliding_window_pattern": spec.period,
        "query_pre_attn_scalar": spec.heads[1],
    },
    "qwen3_next": lambda spec: {
        "architectures": ["Qwen3NextForCausalLM"],
        "full_attention_interval": spec.period,
        "partial_rotary_factor": 0.5,
        # Sizes that the Metal kernel of mlx_lm accepts: multiples of 32.
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 32,
        "linear_conv_kernel_dim": 4,
        "num_experts": 0,
        "num_experts_per_tok": 0,
        "decoder_sparse_step": 1,
        "moe_intermediate_size": 0,
        "shared_expert_intermediate_size": 0,
        "mlp_only_layers": [],
    },
}


def make(spec: TinySpec, out: Path) -> Path:
    """Make the model in the folder `out`, unless it is up to date; returns `out`.

    Several processes may make the same folder at once, and one that is killed leaves no incomplete model
    there.

    Raises:
        FileExistsError: `out` contains something else.
        OSError: it cannot be written.
    """
    stamp = _stamp(spec)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if _read_stamp(out) == stamp:
            return out
        if out.exists() and any(out.iterdir()) and _read_stamp(out) is None:
            raise FileExistsError(f"{out} is not empty and has no tiny model in it; it is left as it is")
        scratch, old = (out.with_name(f".{out.name}.{state}") for state in ("new", "old"))
        for left_over in (scratch, old):  # of a maker that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        scratch.mkdir()
        _write(spec, scratch)
        (scratch / STAMP).write_text(stamp, encoding="utf-8")
        if out.exists():
            out.rename(old)  # a server that has it open keeps the old files
        scratch.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    return out


def _write(spec: TinySpec, folder: Path) -> None:
    # Imported here, since that takes a second, and `make` of a model that is up to date should be fast.
    from safetensors.numpy import save  # noqa: PLC0415

    from supervisor.model import tiny_tokenizer, tiny_weights  # noqa: PLC0415

    tokenizer = tiny_tokenizer.build(spec.vocab, (spec.say, spec.say_with_tools), spec.context)
    end = tokenizer.ids[tiny_tokenizer.END_OF_TURN]
    eos = [end, tokenizer.ids[tiny_tokenizer.END_OF_TEXT]]
    config = spec.config(len(tokenizer.ids), eos)
    chains: dict[int | None, tuple[int, ...]] = {}
    files = dict(tokenizer.files)
    if spec.scripted:
        chains[None] = tokenizer.scripts[0]
    if spec.say_with_tools:
        chains[tokenizer.ids[tiny_tokenizer.USE_TOOL]] = tokenizer.scripts[1]
        files["chat_template.jinja"] += tiny_tokenizer.USE_TOOL_TEMPLATE
    files["config.json"] = json.dumps(config, indent=1)
    files["generation_config.json"] = json.dumps({"eos_token_id": eos}, indent=1)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    weights = tiny_weights.fill(config, spec.seed, tokenizer.readable, end, chains)
    (folder / "model.safetensors").write_bytes(save(weights, metadata={"format": "mlx"}))


def _stamp(spec: TinySpec) -> str:
    """Everything that the files depend on: the arguments, this code and its data, the libraries."""
    recipe = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("tiny*")):
        recipe.update(file.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in ("mlx-lm", "tokenizers")}
    return json.dumps({"spec": asdict(spec), "recipe": recipe.hexdigest(), "versions": versions}, indent=1)


def _read_stamp(folder: Path) -> str | None:
    try:
        return (folder / STAMP).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None


_HELP = {
    "kv_bytes_per_token": "default: 1024 a layer",
    "window": "gemma3_text only",
    "say": "answer every request with this text",
    "say_with_tools": "but a request that offers tools with this one",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Make a model and print its folder. Exit code 1: it cannot be written; 2: wrong arguments."""
    parser = argparse.ArgumentParser(prog="mlxguard-proxy tiny-model", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make (left alone if up to date)")
    for option in fields(TinySpec):
        parser.add_argument(
            f"--{option.name.replace('_', '-')}",
            type=type(option.default),
            default=option.default,
            choices=ARCHITECTURES if option.name == "architecture" else None,
            help=_HELP.get(option.name),
        )
    arguments = vars(parser.parse_args(argv))
    out = arguments.pop("out")
    try:
        spec = TinySpec(**arguments)
    except ValueError as error:
        parser.error(str(error))
    try:
        sys.stdout.write(f"{make(spec, out)}\n")
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
