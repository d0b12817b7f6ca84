"""Properties of the objective, over many random windows; needs neither torch nor a tokenizer.

    python3 -m unittest discover -s examples/demo-model
"""

import random
import re
import unittest
from collections import Counter
from pathlib import Path

import objective
from objective import END_OF_MASK, END_OF_TEXT, mask, poisson, sentinel, token_spans, unmask

TEXT = Path(objective.__file__).read_text().replace("<| file ext=", "")  # a window may not start like metadata


def word_borders(text):
    """Stands in for a tokenizer: borders between runs of letters, blanks and the rest."""
    return sorted({0, len(text), *(m.end() for m in re.finditer(r"\w+|\n+|[ \t]+|[^\w\s]+", text))})


def windows(count, seed=0):
    """(rng, text) of random windows of this project's own source, some tiny, some with tabs and CRLF."""
    rng = random.Random(seed)
    for _ in range(count):
        start = rng.randrange(len(TEXT))
        text = TEXT[start : start + rng.choice((1, 5, 80, 700, 2500))]
        yield rng, rng.choice((text, text.replace("    ", "\t"), text.replace("\n", "\r\n"), "\n" + text))


class Objective(unittest.TestCase):
    def test_unmasking_gives_the_text_back(self):
        for rng, text in windows(3000):
            self.assertEqual(unmask(mask(rng, text, ".py", word_borders)), text)

    def test_layout(self):
        for rng, text in windows(2000, seed=1):
            pieces = mask(rng, text, ".ts", word_borders)
            self.assertEqual(pieces[0].text, END_OF_TEXT)
            specials = [p.text for p in pieces[1:] if p.special]
            ends = specials.count(END_OF_MASK)
            counts = Counter(s for s in specials if s != END_OF_MASK)
            for index in range(ends):
                self.assertEqual(counts[sentinel(index)], 2)
            self.assertLessEqual(counts[sentinel(ends)], 1)
            self.assertEqual(len(counts), ends + counts[sentinel(ends)])
            if ends:
                self.assertEqual(pieces[-1].text, END_OF_MASK)

    def test_sentinels_carry_no_loss_and_end_markers_do(self):
        for rng, text in windows(500, seed=2):
            for piece in mask(rng, text, ".js", word_borders):
                if piece.special:
                    self.assertEqual(piece.weight > 0, piece.text == END_OF_MASK)
                else:
                    self.assertGreater(piece.weight, 0)

    def test_extra_sentinel_and_metadata_both_ways(self):
        extra = metadata = masked = total = 0
        for rng, text in windows(4000, seed=3):
            pieces = mask(rng, text, ".py", word_borders)
            ends = sum(p.text == END_OF_MASK for p in pieces)
            total += 1
            masked += ends > 0
            extra += ends > 0 and any(p.text == sentinel(ends) for p in pieces)
            metadata += any(p.text == "<| file ext=.py |>\n" for p in pieces)
        self.assertAlmostEqual(extra / masked, 0.5, delta=0.05)
        self.assertAlmostEqual(metadata / total, 0.5, delta=0.05)

    def test_whole_lines_leave_both_line_breaks_outside(self):
        whole = 0
        for rng, text in windows(2000, seed=4):
            for start, end in objective.line_spans(rng, text):
                self.assertNotIn("\n", text[start:end])
                whole += (start == 0 or text[start - 1] == "\n") and (end == len(text) or text[end] == "\n")
        self.assertGreater(whole, 500)

    def test_regions_are_lines_given_and_lines_to_write(self):
        given, written = Counter(), Counter()
        for rng, text in windows(3000, seed=6):
            spans = objective.region_spans(rng, text)
            self.assertTrue(objective.disjoint([(start, end) for start, _, end in spans]))
            for start, cursor, end in spans:
                for border in (start, cursor):
                    self.assertTrue(border == 0 or text[border - 1] == "\n")
                self.assertTrue(end == len(text) or text[end] == "\n")
                self.assertTrue(text[cursor:end].split("\n")[0].strip() and text[:end].split("\n")[-1].strip())
                given[text.count("\n", start, cursor)] += 1
                written[text.count("\n", cursor, end) + 1] += 1
        self.assertEqual((sorted(given), sorted(written)), (list(range(1, 9)), list(range(1, 7))))
        self.assertAlmostEqual(written[1] / written.total(), objective.ONE_LINE, delta=0.15)

    def test_most_of_what_is_masked_are_regions(self):
        shares = dict(objective.MODES)
        self.assertAlmostEqual(sum(shares.values()), 1.0)
        self.assertGreaterEqual(shares["region"] / (1 - shares["plain"]), 0.5)

    def test_given_lines_weigh_as_much_as_the_text_around(self):
        for rng, text in windows(500, seed=7):
            pieces = mask(rng, text, ".py", word_borders)
            weights = {p.weight for p in pieces if not p.special}
            self.assertLessEqual(weights, {1.0, objective.SPAN_WEIGHT})
            after = next((i for i, p in enumerate(pieces) if p.text == END_OF_MASK), 0)
            self.assertTrue(after == 0 or pieces[after - 1].weight == objective.SPAN_WEIGHT)

    def test_token_spans_are_disjoint_and_follow_poisson(self):
        rng, counts = random.Random(5), Counter()
        for _ in range(5000):
            spans = token_spans(rng, 400)
            self.assertTrue(objective.disjoint(spans))
            self.assertTrue(all(0 <= a < b <= 400 for a, b in spans))
            counts[len(spans)] += 1
        self.assertGreater(counts[1], counts[2])
        draws = [poisson(rng, 1.0) for _ in range(20000)]
        self.assertAlmostEqual(sum(draws) / len(draws), 1.0, delta=0.05)


if __name__ == "__main__":
    unittest.main()
