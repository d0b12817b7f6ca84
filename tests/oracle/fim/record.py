"""Trains a small tokenizer that is built as Qwen2.5-Coder's is, and records what tokenizers and transformers make of texts and of a
hole, with the model ../llama/qwen2.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==4.46.3 safetensors==0.8.0 tokenizers==0.20.3
    venv/bin/python tests/oracle/fim/record.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM

HERE = Path(__file__).parent
MODEL = HERE.parent / "llama" / "qwen2"
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
SENTINELS = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
TEXTS = [
    "def mean(values):\n    return sum(values) / len(values)\n",
    "  \n\n   x = 1234  # it's don't WE'LL\r\n\ttab",
    "naïve café e\u0301 漢字 🙂 … <|endoftext|> <|fim_prefix|>x",
    "",
    "    ",
]
# Prefix and suffix; the model is to write what is between.
HOLES = [("def mean(values):\n    total = ", "\n    return total / len(values)\n"), ("", "x"), ("return ", "")]
NEW_TOKENS = 12


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=306, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    # As in Qwen's: the end of a text is special, the sentinels are not.
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in SENTINELS])
    return tokenizer


def fill(tokenizer, model, prefix, suffix):
    """The prompt, and what the model chooses among the tokens that the tokenizer has."""
    prefix_id, middle_id, suffix_id, _ = (tokenizer.token_to_id(token) for token in SENTINELS)
    encode = lambda text: tokenizer.encode(text).ids
    prompt = [prefix_id, *encode(prefix), suffix_id, *encode(suffix), middle_id]
    ids, margins = list(prompt), []
    ends = [tokenizer.token_to_id(token) for token in ["<|endoftext|>", *SENTINELS]]
    with torch.no_grad():
        for _ in range(NEW_TOKENS):
            logits = model(torch.tensor([ids])).logits[0, -1, :tokenizer.get_vocab_size()].double()
            best = torch.topk(logits, 2)
            ids.append(int(best.indices[0]))
            margins.append(round(float(best.values[0] - best.values[1]), 4))
            # 2 is the model's own end of a text.
            if ids[-1] in ends or ids[-1] == 2:
                break
    return {"prefix": prefix, "suffix": suffix, "prompt": prompt, "ids": ids[len(prompt):], "margin": min(margins)}


def main():
    tokenizer = train()
    tokenizer.save(str(HERE / "tokenizer.json"))
    config = Qwen2Config.from_pretrained(MODEL)
    model = Qwen2ForCausalLM(config).eval()
    model.load_state_dict({key: value.float() for key, value in load_file(MODEL / "model.safetensors").items()})
    texts = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    holes = [fill(tokenizer, model, prefix, suffix) for prefix, suffix in HOLES]
    (HERE / "expected.json").write_text(json.dumps({"texts": texts, "holes": holes}, indent=1) + "\n")
    for hole in holes:
        print(len(hole["prompt"]), hole["ids"], hole["margin"])


main()
