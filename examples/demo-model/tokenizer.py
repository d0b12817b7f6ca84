"""Train the tokenizer: InCoder's byte-level BPE, whose tokens span blanks but never a line break.

Ids: 0 <s>, 1 <pad>, 2 <|endoftext|>, 3 <unk>, then BPE (its first three merges make `<|`, `<|/` and
`|>`, so 4, 5 and 6 are those, then the 256 bytes, then the learned merges), then <|mask:0|> ..
<|mask:255|> and <|endofmask|>.
"""

import json
import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from objective import END_OF_MASK, END_OF_TEXT, sentinel

VOCABULARY = 8192
SAMPLE_CHARACTERS = 30_000_000
LONGEST_TOKEN = 20
SPECIALS = ["<s>", "<pad>", END_OF_TEXT, "<unk>"]
SENTINELS = [sentinel(i) for i in range(256)] + [END_OF_MASK]
FIRST_MERGES = [("<", "|"), ("<|", "/"), ("|", ">")]


def layout():
    """A tokenizer with InCoder's pre-tokenizer and decoder, still without a vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\r\n]+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def learned_merges(texts):
    """Merges learned from `texts`, most frequent first, and the byte alphabet."""
    tokenizer = layout()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    size = VOCABULARY - len(SPECIALS) - len(SENTINELS)
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, max_token_length=LONGEST_TOKEN, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]], alphabet


def assemble(merges, alphabet):
    """The tokenizer.json document from learned merges."""
    made = ["".join(m) for m in FIRST_MERGES]
    merges = [m for m in merges if "".join(m) not in made]
    room = VOCABULARY - len(SPECIALS) - len(made) - len(alphabet) - len(SENTINELS)
    merges = merges[:room]
    vocabulary = SPECIALS + made + alphabet + ["".join(m) for m in merges]
    assert len(set(vocabulary)) + len(SENTINELS) == VOCABULARY, len(set(vocabulary))
    added = list(enumerate(SPECIALS)) + list(enumerate(SENTINELS, len(vocabulary)))
    document = json.loads(layout().to_str())
    document["model"] |= {
        "vocab": {token: i for i, token in enumerate(vocabulary)},
        "merges": [f"{a} {b}" for a, b in FIRST_MERGES + merges],
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    }
    document["added_tokens"] = [
        {"id": i, "content": c, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, c in added
    ]
    first = {"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {END_OF_TEXT: {"id": END_OF_TEXT, "ids": [2], "tokens": [END_OF_TEXT]}},
    }
    return document


def build(corpus, path):
    """Train on a fixed sample of train.jsonl's files and write tokenizer.json to `path`."""
    texts = [json.loads(line)["text"] for line in open(corpus)]
    random.Random(8192).shuffle(texts)
    sample, total = [], 0
    for text in texts:
        sample.append(text)
        total += len(text)
        if total > SAMPLE_CHARACTERS:
            break
    document = assemble(*learned_merges(sample))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n")
    check(path, texts[-200:])


def check(path, texts):
    """The written file loads, round-trips, and holds the ids that InCoder's layout promises."""
    tokenizer = Tokenizer.from_file(str(path))
    ids = [tokenizer.token_to_id(t) for t in ("<s>", END_OF_TEXT, "<|", "<|/", "|>", sentinel(0), END_OF_MASK)]
    assert ids == [0, 2, 4, 5, 6, VOCABULARY - 257, VOCABULARY - 1], ids
    assert tokenizer.get_vocab_size() == VOCABULARY
    characters = tokens = 0
    for text in texts:
        encoded = tokenizer.encode(text).ids
        assert encoded[0] == 2 and tokenizer.decode(encoded[1:], skip_special_tokens=False) == text
        characters, tokens = characters + len(text), tokens + len(encoded)
    print(f"tokenizer: {characters / tokens:.2f} characters a token", flush=True)
