"""The table of rates and ratios, and what it takes from `incoder bench -o json`."""


def ours(report):
    """`incoder bench`'s rows, as a peer's."""
    rows = []
    for row in report["rows"]:
        if row["test"] in ("prefill", "decode"):
            tokens = row["prompt_tokens"] if row["test"] == "prefill" else row["new_tokens"]
            rows.append({
                "test": row["test"], "depth": row["depth_tokens"], "tokens": tokens,
                "repetitions": report["repetitions"], "tokens_per_second": row["tokens_per_second"],
            })
    return rows


def medians(rows):
    return {(row["test"], row["depth"]): row["tokens_per_second"]["median"] for row in rows}


def mean(runs):
    """Of each test, over the runs that have it."""
    runs = [medians(run["rows"]) for run in runs]
    tests = {test for run in runs for test in run}
    return {test: sum(run[test] for run in runs if test in run) / sum(test in run for run in runs) for test in tests}


def ratios(runs):
    """Adds `ours_by_peer` to each: the mean of our runs by a peer's median; for our last run, by our first."""
    own = [run for run in runs if run["is_ours"]]
    for run in runs:
        over, under = mean(own), medians(run["rows"])
        if run["is_ours"]:
            over, under = under, medians(own[0]["rows"]) if run is not own[0] else {}
        run["ours_by_peer"] = [
            {"test": test, "depth": depth, "ratio": over[test, depth] / under[test, depth]}
            for test, depth in sorted(under, key=lambda test: (test[0] == "decode", test[1]))
            if (test, depth) in over
        ]
    return runs


def figure(number):
    """Three digits, as far as they are decimals."""
    if number is None:
        return "–"
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def setting(row):
    return f" ({row['setting']})" if "setting" in row else ""


def counts(rows):
    return ", ".join(f"{row['tokens']} × {row['repetitions']}{setting(row)}" for row in rows)


def markdown(runs, prompt, depths):
    tests = [("prefill", 0)] + [("decode", depth) for depth in depths]
    names = [f"prefill {prompt}"] + [f"decode at {depth}" for depth in depths]
    head = ["engine", "device", "weights", *(f"{name}, tok/s" for name in names)]
    lines = [head + [f"ours ÷ it: {name}" for name in names] + ["n (tokens × repetitions), best setting"]]
    for run in runs:
        rates = medians(run["rows"])
        by = {(ratio["test"], ratio["depth"]): ratio["ratio"] for ratio in run["ours_by_peer"]}
        cells = [figure(rates.get(test)) for test in tests] + [figure(by.get(test)) for test in tests]
        lines.append([run["engine"], run["device"], run["dtype"], *cells, counts(run["rows"])])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = ["-" * width if i in (0, 1, 2, len(widths) - 1) else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    aligned = [
        [cell.rjust(width) if mark.endswith(":") else cell.ljust(width) for cell, width, mark in zip(line, widths, rule)]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], rule, *aligned[1:]])
