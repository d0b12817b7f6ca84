"""The causal-masked objective: a window of source text becomes one training document.

Layout (InCoder, arXiv 2204.05999): the spans that are hidden leave a sentinel behind and move to
the end of the document, each introduced by its sentinel again and closed by an end marker:

    <|endoftext|> left <|mask:0|> right [<|mask:1|>] <|mask:0|> span <|endofmask|>

The bracketed sentinel, one number past the last span, is what a reader's cursor asks for when more
text may follow; it is present in half of the documents.

Nothing here needs torch or a trained tokenizer: a document is a list of `Piece`s, and `unmask`
gives the original text back (the tests hold it to that).
"""

import math
import random
from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
END_OF_MASK = "<|endofmask|>"
MAX_SPANS = 256
SPAN_WEIGHT = 3.0  # of what has to be written in a span; the lines before the cursor in it weigh 1

# How a window is masked. Shares add up to 1.
MODES = (("plain", 0.06), ("region", 0.56), ("line", 0.28), ("tokens", 0.10))
LOOKBACK, WRITTEN = 8, 6  # lines of a region before the cursor, and from it on, at most
ONE_LINE = 0.4  # share of regions of which a single line has to be written
LINES_A_REGION = 24  # a window of so many lines has one region, of twice as many up to two, ...
MAX_REGIONS = 4


def sentinel(index):
    """The literal of mask sentinel `index` (0..255)."""
    return f"<|mask:{index}|>"


@dataclass(frozen=True)
class Piece:
    """A run of text that is tokenized on its own, or one special token.

    `weight` is the loss weight of predicting this piece's tokens.
    """

    text: str
    weight: float
    special: bool = False


def poisson(rng, mean):
    """One draw of a Poisson variable (Knuth's product of uniforms)."""
    limit, product, count = math.exp(-mean), rng.random(), 0
    while product > limit:
        product *= rng.random()
        count += 1
    return count


def disjoint(spans):
    """True where sorted half-open spans neither overlap nor touch."""
    return all(a[1] < b[0] for a, b in zip(spans, spans[1:]))


def token_spans(rng, length):
    """The paper's spans over `length` positions: Poisson(1) many, clipped to [1, 256], with uniform
    ends; a set with an overlap is drawn again."""
    for _ in range(64):
        count = min(max(poisson(rng, 1.0), 1), MAX_SPANS)
        spans = sorted(tuple(sorted(rng.sample(range(length + 1), 2))) for _ in range(count))
        if disjoint(spans):
            return spans
    return []


def line_table(text):
    """Half-open (start, end) of every line, without its line break."""
    table, start = [], 0
    for line in text.split("\n"):
        table.append((start, start + len(line)))
        start += len(line) + 1
    return table


def filled_lines(text):
    """The spans of the lines that are not blank."""
    return [(a, b) for a, b in line_table(text) if text[a:b].strip()]


def line_spans(rng, text):
    """Up to one span in five lines, at most eight, each inside a single line: the whole line, the line
    after its indentation, from a random character to the line's end, or between two characters. The
    line break stays outside."""
    lines = filled_lines(text)
    if len(lines) < 3:
        return []
    count = rng.randint(1, max(1, min(8, len(lines) // 5)))
    spans = []
    for start, end in rng.sample(lines, count):
        form = rng.random()
        if form < 0.55:
            spans.append((start, end))
        elif form < 0.70:
            body = text[start:end]
            spans.append((start + len(body) - len(body.lstrip()), end))
        elif form < 0.93 or end - start < 2:
            spans.append((rng.randrange(start, end), end))
        else:
            spans.append(tuple(sorted(rng.sample(range(start, end + 1), 2))))
    return sorted(spans)


def region_spans(rng, text):
    """Spans of whole lines: one to LOOKBACK that are there already, then one to WRITTEN that are not.

    The line break after the last line stays outside, and neither the line at the cursor nor the last
    one is blank. (start, cursor, end), sorted and disjoint; none in a text of less than six lines.
    """
    lines = line_table(text)
    filled = [i for i in range(1, len(lines)) if text[slice(*lines[i])].strip()]
    if len(filled) < 5:
        return []
    spans = []
    for _ in range(rng.randint(1, min(MAX_REGIONS, max(1, len(lines) // LINES_A_REGION)))):
        at = rng.randrange(len(filled))
        written = 1 if rng.random() < ONE_LINE else rng.randint(2, WRITTEN)
        limit = filled[at] + written
        last = max(i for i in filled[at : at + written] if i < limit)
        first = max(0, filled[at] - rng.randint(1, LOOKBACK))
        span = lines[first][0], lines[filled[at]][0], lines[last][1]
        if all(span[2] < start or end < span[0] for start, _, end in spans):
            spans.append(span)
    return sorted(spans)


def spans_of(rng, text, mode, offsets):
    """Sorted disjoint (start, cursor, end) to hide, possibly none; what is before the cursor is given.

    `offsets(text)` gives the character borders of the text's tokens, for the paper's token spans.
    """
    if mode == "region":
        return region_spans(rng, text)
    spans = []
    if mode == "line":
        spans = line_spans(rng, text)
    elif mode == "tokens":
        borders = offsets(text)
        spans = [(borders[a], borders[b]) for a, b in token_spans(rng, len(borders) - 1)]
        spans = [s for s in spans if s[0] < s[1]] if disjoint(spans) else []
    return [(start, start, end) for start, end in spans]


def mask(rng, text, extension, offsets):
    """Turn `text` into the pieces of one training document.

    `extension` (".py") goes into the metadata line, half of the time. Sentinels carry no loss; nor
    does the leading end-of-text, which closes the document packed before it: whoever packs knows
    whether that one really ended there.
    """
    mode = rng.choices([m for m, _ in MODES], [w for _, w in MODES])[0]
    spans = spans_of(rng, text, mode, offsets)
    pieces = [Piece(END_OF_TEXT, 0.0, True)]
    if rng.random() < 0.5:
        pieces.append(Piece(f"<| file ext={extension} |>\n", 1.0))
    cursor = 0
    for index, (start, _, end) in enumerate(spans):
        pieces += [Piece(text[cursor:start], 1.0), Piece(sentinel(index), 0.0, True)]
        cursor = end
    pieces.append(Piece(text[cursor:], 1.0))
    if spans and rng.random() < 0.5:
        pieces.append(Piece(sentinel(len(spans)), 0.0, True))
    for index, (start, given, end) in enumerate(spans):
        pieces.append(Piece(sentinel(index), 0.0, True))
        pieces += [Piece(text[start:given], 1.0), Piece(text[given:end], SPAN_WEIGHT)]
        pieces.append(Piece(END_OF_MASK, SPAN_WEIGHT, True))
    return [p for p in pieces if p.text]


def unmask(pieces):
    """The original text of a masked document, metadata line left out: the inverse of `mask`."""
    pieces = list(pieces)[1:]
    if pieces and pieces[0].text.startswith("<| file ext="):
        pieces = pieces[1:]
    body, spans, current = [], {}, None
    seen = set()
    for piece in pieces:
        if piece.special and piece.text == END_OF_MASK:
            current = None
        elif piece.special and piece.text in seen:
            current = piece.text
            spans[current] = ""
        elif piece.special:
            seen.add(piece.text)
            body.append(piece)
        elif current is not None:
            spans[current] += piece.text
        else:
            body.append(piece)
    return "".join(spans.get(p.text, "") if p.special else p.text for p in body)
