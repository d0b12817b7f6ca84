"""An endless, resumable stream of training rows: windows of source files, masked and packed.

Files are cut into stretches of a few thousand characters at line borders, and the stretches of each
language are shuffled once. Many stretches are open at a time; each window is the next one of an open stretch drawn
by chance (so that neighbouring windows land in batches far apart), becomes one masked document, and
documents are packed until a row is full.
"""

import json
import lzma
import random

import numpy as np
from tokenizers import Tokenizer

from objective import END_OF_TEXT, Piece, mask

STRETCH = 6000  # characters
WHOLE_ROWS = 0.75  # share of documents that get all the room of their row: context is what is learned late
PYTHON = 0.7  # share of stretches that are Python; the rest is JavaScript and TypeScript
OPEN = 2048  # stretches being read at a time
CHARACTERS_A_TOKEN = 3.5  # a guess to size windows with; what is too long is cut again
SMALLEST_ROOM = 64  # tokens; a smaller rest of a row is filled with unmasked text


def line_cut(text, start, length):
    """The end of a window of about `length` characters from `start`, just after a line break."""
    if start + length >= len(text):
        return len(text)
    end = text.rfind("\n", start, start + length) + 1
    return end if end > start else min(start + length, len(text))


def stretches(corpus):
    """(Python, others): (text, extension, ends_file) of every stretch of train.jsonl or .xz, in a fixed shuffled order."""
    python, others = [], []
    with lzma.open(corpus, "rt") if corpus.suffix == ".xz" else open(corpus) as lines:
        for line in lines:
            file = json.loads(line)
            text, extension, start = file["text"], "." + file["path"].rsplit(".", 1)[1], 0
            while start < len(text):
                end = line_cut(text, start, STRETCH)
                if len(text) - end < STRETCH // 4:
                    end = len(text)
                (python if extension == ".py" else others).append((text[start:end], extension, end == len(text)))
                start = end
    for part in (python, others):
        random.Random(20261123).shuffle(part)
    return python, others


class Encoder:
    """Tokenizes pieces one by one, so that no token crosses a sentinel."""

    def __init__(self, path):
        self.tokenizer = Tokenizer.from_file(str(path))

    def piece(self, piece):
        """Token ids of one piece."""
        if piece.special:
            return [self.tokenizer.token_to_id(piece.text)]
        return self.tokenizer.encode(piece.text, add_special_tokens=False).ids

    def borders(self, text):
        """Character offsets of the token borders of `text`, first 0 and last len(text)."""
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        return sorted({0, len(text), *(end for _, end in offsets)})

    def document(self, pieces):
        """(ids, weights) of a masked document: lists of equal length."""
        ids, weights = [], []
        for piece in pieces:
            encoded = self.piece(piece)
            ids += encoded
            weights += [piece.weight] * len(encoded)
        return ids, weights


class Stream:
    """Rows of ids and loss weights. `state` and `restore` make it resumable to the row."""

    def __init__(self, stretches, tokenizer, seed=1):
        self.stretches = stretches  # as `stretches` returns them, or a part
        self.encoder = Encoder(tokenizer)
        self.rng = random.Random(seed)
        self.taken = [0, 0]  # stretches of Python and of the others taken so far, over all epochs
        self.cursors = {}  # open slot -> (language, stretch, offset)

    def state(self):
        return {"rng": self.rng.getstate(), "taken": list(self.taken), "cursors": dict(self.cursors), "sizes": self.sizes()}

    def restore(self, state):
        """Go on from `state`; after the corpus has changed, from its beginning."""
        self.rng.setstate(state["rng"])
        if state["sizes"] == self.sizes():
            self.taken, self.cursors = list(state["taken"]), dict(state["cursors"])

    def sizes(self):
        return [len(part) for part in self.stretches]

    def epochs(self):
        """How often Python and the other languages have been gone through."""
        return [taken / max(1, len(part)) for taken, part in zip(self.taken, self.stretches)]

    def opened(self):
        """(language, stretch, 0) of a stretch that is next in its language."""
        language = 0 if self.rng.random() < PYTHON else 1
        if not self.stretches[language]:
            language = 1 - language
        index = self.taken[language] % len(self.stretches[language])
        self.taken[language] += 1
        return language, index, 0

    def window(self, characters):
        """(text, extension, ends_file) of the next window, of at most `characters`."""
        slot = self.rng.randrange(OPEN)
        language, index, start = self.cursors.get(slot) or self.opened()
        text, extension, ends_file = self.stretches[language][index]
        end = line_cut(text, start, characters)
        if len(text) - end < 120:
            end = len(text)
        self.cursors[slot] = (language, index, end) if end < len(text) else None
        return text[start:end], extension, ends_file and end == len(text)

    def document(self, room):
        """One masked document of at most `room` tokens, and whether it ends its file."""
        share = 1.0 if self.rng.random() < WHOLE_ROWS else self.rng.uniform(0.4, 1.0)
        text, extension, ends_file = self.window(int(room * share * CHARACTERS_A_TOKEN))
        while True:
            ids, weights = self.encoder.document(mask(self.rng, text, extension, self.encoder.borders))
            if len(ids) <= room:
                return ids, weights, ends_file
            text, ends_file = text[: line_cut(text, 0, int(len(text) * 0.87))], False

    def row(self, length):
        """ids [length + 1], weight [length] of predicting ids[1:]."""
        ids, weights, ends_file = [], [], False
        while length + 1 - len(ids) >= SMALLEST_ROOM:
            more, more_weights, ended = self.document(length + 1 - len(ids))
            more_weights[0] = 1.0 if ends_file else 0.0
            ids, weights, ends_file = ids + more, weights + more_weights, ended
        room = length + 1 - len(ids)
        if room:
            text, _, _ = self.window(room * 4)
            rest, rest_weights = self.encoder.document([Piece(END_OF_TEXT, 0.0, True), Piece(text, 1.0)])
            ids, weights = ids + rest[:room], weights + rest_weights[:room]
            ids += [1] * (length + 1 - len(ids))
            weights += [0.0] * (length + 1 - len(weights))
        return ids, weights[1:]

    def batch(self, rows, length):
        """int64 ids [rows, length + 1] and float32 weights [rows, length]."""
        made = [self.row(length) for _ in range(rows)]
        return np.array([m[0] for m in made], np.int64), np.array([m[1] for m in made], np.float32)
