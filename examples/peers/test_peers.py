import unittest

import peer
import peers
import table


def row(test, depth, tokens, rate):
    spread = {"median": rate, "min": rate, "max": rate}
    return {"test": test, "depth": depth, "tokens": tokens, "repetitions": 3, "tokens_per_second": spread}


def run(engine, is_ours, *rows):
    return {"engine": engine, "device": "vulkan", "dtype": "f16", "is_ours": is_ours, "rows": list(rows)}


class Tests(unittest.TestCase):
    def test_reads_what_incoder_bench_prints(self):
        rate = {"median": 30.5, "min": 29.0, "max": 31.0}
        bench = [
            {"test": "prefill", "prompt_tokens": 128, "depth_tokens": 0, "new_tokens": 0, "tokens_per_second": rate},
            {"test": "first_token", "prompt_tokens": 128, "depth_tokens": 0, "new_tokens": 1, "tokens_per_second": None},
            {"test": "decode", "prompt_tokens": 0, "depth_tokens": 1900, "new_tokens": 32, "tokens_per_second": rate},
        ]
        rows = table.ours({"repetitions": 3, "rows": bench})
        self.assertEqual([(r["test"], r["depth"], r["tokens"]) for r in rows], [("prefill", 0, 128), ("decode", 1900, 32)])
        self.assertEqual(rows[1]["tokens_per_second"], rate)

    def test_a_ratio_is_the_mean_of_our_runs_by_the_peers(self):
        first, last = (run("incoder", True, row("prefill", 0, 128, rate), row("decode", 0, 8, 9)) for rate in (100, 300))
        other = run("other", False, row("prefill", 0, 128, 50))
        table.ratios([first, other, last])
        self.assertEqual(other["ours_by_peer"], [{"test": "prefill", "depth": 0, "ratio": 4}])
        self.assertEqual((first["ours_by_peer"], last["ours_by_peer"][0]["ratio"]), ([], 3))
        lines = table.markdown([first, other, last], 128, [0]).splitlines()
        self.assertEqual(len({len(line) for line in lines}), 1)
        cells = [cell.strip() for cell in lines[3].split("|")[1:-1]]
        self.assertEqual(cells, ["other", "vulkan", "f16", "50.0", "–", "4.00", "–", "128 × 3"])

    def test_figures_have_three_digits(self):
        self.assertEqual([table.figure(n) for n in (1234.5, 12.345, 0.1234, None)], ["1234", "12.3", "0.12", "–"])

    def test_a_peer_that_is_slow_does_less(self):
        self.assertEqual(len(peer.repeated(lambda: 1, 3, 60)), 3)
        self.assertEqual(len(peer.repeated(lambda: 1, 3, 0)), 1)
        self.assertEqual(peer.row("decode", 0, 8, [4, 2, 1])["tokens_per_second"], {"median": 4, "min": 2, "max": 8})

    def test_a_peer_counts_in_its_best_setting(self):
        rows = [{**row("decode", 0, 8, rate), "setting": str(rate)} for rate in (5, 9, 7)] + [row("prefill", 0, 128, 1)]
        self.assertEqual([one.get("setting") for one in peer.best(rows)], [None, "9"])
        self.assertEqual(table.counts(peer.best(rows)), "128 × 3, 8 × 3 (9)")

    def test_a_failure_is_one_line(self):
        with self.assertRaisesRegex(peers.Failed, "^no-such-program: "):
            peers.output(["no-such-program"])
        with self.assertRaisesRegex(peers.Failed, "^last$"):
            peers.output(["sh", "-c", "echo first >&2; echo last >&2; exit 3"])


if __name__ == "__main__":
    unittest.main()
