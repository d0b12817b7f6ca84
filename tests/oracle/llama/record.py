"""Makes small models of the Llama family with random weights, and records what transformers computes with them.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==4.46.3 safetensors==0.8.0 numpy
    venv/bin/python tests/oracle/llama/record.py

With `--compare` it writes nothing and compares the recorded results with those of the transformers that is installed.
"""

import argparse
import itertools
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

HERE = Path(__file__).parent
GREEDY = 24
MARGIN = 0.015

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
# transformers 4.46 takes max_position_embeddings for the original ones: here they are the same.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}

# Heads that share keys and values: 1, 2, 3, 4 and 7 queries each. Widths that are no power of two are multiples of 8.
VARIANTS = {
    "mha": (LlamaConfig, torch.float16, dict(
        hidden_size=64, intermediate_size=176, num_attention_heads=4, num_key_value_heads=4, vocab_size=320)),
    "llama3-tied": (LlamaConfig, torch.bfloat16, dict(
        hidden_size=96, intermediate_size=256, num_attention_heads=6, num_key_value_heads=3, vocab_size=333,
        tie_word_embeddings=True, rope_scaling=LLAMA3, rope_theta=500000.0)),
    "linear-biases": (LlamaConfig, torch.float16, dict(
        hidden_size=64, intermediate_size=200, num_attention_heads=4, num_key_value_heads=1, vocab_size=320,
        attention_bias=True, mlp_bias=True, rope_scaling={"rope_type": "linear", "factor": 4.0})),
    "yarn-head-dim": (LlamaConfig, torch.float16, dict(
        hidden_size=72, intermediate_size=136, num_attention_heads=6, num_key_value_heads=2, head_dim=32,
        vocab_size=400, rope_scaling=YARN)),
    "qwen2-tied": (Qwen2Config, torch.bfloat16, dict(
        hidden_size=112, intermediate_size=304, num_attention_heads=14, num_key_value_heads=2, vocab_size=320,
        tie_word_embeddings=True, rope_theta=1000000.0)),
    "qwen2": (Qwen2Config, torch.float16, dict(
        hidden_size=128, intermediate_size=216, num_attention_heads=2, num_key_value_heads=1, vocab_size=320,
        tie_word_embeddings=False, rms_norm_eps=1e-5)),
}


def make(config_class, dtype, sizes, seed):
    config = config_class(num_hidden_layers=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, **sizes)
    model_class = LlamaForCausalLM if config_class is LlamaConfig else Qwen2ForCausalLM
    model = model_class(config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape)
            if name.endswith("norm.weight"):
                values = 1 + 0.2 * values
                if name == "model.norm.weight":
                    # Or a model whose head is its embedding answers every token with that token.
                    values = 2 * values * torch.sign(torch.randn(parameter.shape))
            elif parameter.dim() == 1:
                values = 0.3 * values
            elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
                values = values / math.sqrt(parameter.shape[1])
            else:
                values = 1.5 * values / math.sqrt(parameter.shape[1])
            parameter.copy_(values.to(dtype).float())
    return config, model


def sequences(vocab):
    long = [1] + [3 + (i * i * 31 + i * 7919 + 13) % (vocab - 4) for i in range(1, 140)]
    return {"short": [1, 17, 100, 5, 42], "long": long}


def record(model, vocab):
    results = []
    for name, ids in sequences(vocab).items():
        prompt, tokens, margins = list(ids), [], []
        with torch.no_grad():
            for _ in range(GREEDY):
                logits = model(torch.tensor([prompt + tokens])).logits[0].double()
                best = torch.topk(logits[-1], 2)
                if not tokens:
                    log_probabilities = torch.log_softmax(logits[:-1], -1)
                    last = logits[-1]
                tokens.append(int(best.indices[0]))
                margins.append(float(best.values[0] - best.values[1]))
        given = [round(float(log_probabilities[i, id]), 6) for i, id in enumerate(prompt[1:])]
        results.append({
            "name": name, "ids": prompt, "last_logits": [round(float(value), 6) for value in last],
            "token_log_probs": given, "greedy24": tokens, "greedy_min_margin": min(margins),
        })
    return results


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compare", action="store_true")
    compare = parser.parse_args().compare
    for name, (config_class, dtype, sizes) in VARIANTS.items():
        folder = HERE / name
        # The first seed that leaves no doubt which token is the most probable.
        for seed in itertools.count():
            config, model = make(config_class, dtype, sizes, seed)
            if compare or min(case["greedy_min_margin"] for case in record(model, sizes["vocab_size"])) > MARGIN:
                break
        if compare:
            weights = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
            model.load_state_dict(weights, strict=False)
        results = record(model, sizes["vocab_size"])
        if compare:
            expected = json.loads((folder / "expected.json").read_text())["sequences"]
            error = max(abs(a - b) for old, new in zip(expected, results)
                        for a, b in zip(old["last_logits"], new["last_logits"]))
            same = all(old["greedy24"] == new["greedy24"] for old, new in zip(expected, results))
            print(f"{name}: largest difference of a logit {error:.1e}, tokens {'equal' if same else 'DIFFERENT'}")
            continue
        folder.mkdir(exist_ok=True)
        state = {key: value.to(dtype).contiguous() for key, value in model.state_dict().items()}
        if sizes.get("tie_word_embeddings"):
            del state["lm_head.weight"]
        save_file(state, folder / "model.safetensors")
        config.torch_dtype = dtype
        fields = json.loads(config.to_json_string())
        fields["architectures"] = [type(model).__name__]
        (folder / "config.json").write_text(json.dumps(fields, indent=2, default=str) + "\n")
        (folder / "expected.json").write_text(json.dumps({"sequences": results}) + "\n")
        least = min(result["greedy_min_margin"] for result in results)
        distinct = [len(set(result["greedy24"])) for result in results]
        print(f"{name}: seed {seed}, least margin {least:.4f}, distinct tokens {distinct}")


main()
