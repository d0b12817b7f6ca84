#!/usr/bin/env python3
"""Bring the model card up to date: losses and package list, from log.jsonl and packages.json.

    python3 examples/demo-model/card.py [--work DIR] [--svg FILE]
"""

import argparse
import json
import re
from pathlib import Path

from fetch import HERE, pinned

WIDTH, HEIGHT, MARGIN = 640, 260, 40
ROWS = 12
USES = {"train": "training", "held_out": "**evaluation only**", "development": "**development set only**"}


def entries(work):
    """The training log, one dict for every 20 steps."""
    return [json.loads(line) for line in open(work / "log.jsonl")]


def thinned(log):
    """About ROWS of the entries, evenly spaced, the last one among them."""
    return [log[(i + 1) * len(log) // ROWS - 1] for i in range(ROWS)]


def loss_table(log):
    lines = ["| minutes | step | tokens | loss, all targets | loss, inside spans |", "| ---: | ---: | ---: | ---: | ---: |"]
    for e in thinned(log):
        lines.append(f"| {e['minutes']:.1f} | {e['step']} | {e['tokens']:,} | {e['loss']:.2f} | {e['span_loss']:.2f} |")
    return "\n".join(lines)


def package_table():
    lines = ["| package | version | licence | registry | used for |", "| --- | --- | --- | --- | --- |"]
    for registry, roles in pinned().items():
        for role, packages in roles.items():
            for name, (version, licence) in packages.items():
                lines.append(f"| {name} | {version} | {licence} | {registry} | {USES[role]} |")
    return "\n".join(lines)


def polyline(log, field, colour):
    """The curve of one field over tokens; losses from 1 to 9 nats fill the height."""
    last = log[-1]["tokens"]
    points = " ".join(
        f"{MARGIN + (WIDTH - MARGIN) * e['tokens'] / last:.1f},{(HEIGHT - MARGIN) * (9 - e[field]) / 8:.1f}" for e in log
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def loss_svg(log):
    grid = ""
    for nats in range(2, 9):
        y = (HEIGHT - MARGIN) * (9 - nats) / 8
        grid += f'<path d="M{MARGIN} {y:.1f}H{WIDTH}" stroke="#ccc"/><text x="20" y="{y + 4:.1f}">{nats}</text>'
    millions = log[-1]["tokens"] / 1e6
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>{grid}'
        f'{polyline(log, "span_loss", "#d95f02")}{polyline(log, "loss", "#1b6ca8")}'
        f'<text x="{MARGIN}" y="{HEIGHT - 10}">nats a token over {millions:.1f} million tokens: '
        '<tspan fill="#1b6ca8">all targets</tspan>, <tspan fill="#d95f02">inside hidden spans</tspan></text></svg>\n'
    )


def replace_section(card, name, body):
    """Put `body` between the markers <!-- name --> and <!-- /name -->."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda m: f"{m[1]}{body}\n{m[2]}", card, flags=re.S)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=HERE / "work")
    parser.add_argument("--svg", type=Path, help="also draw the curve, into this file")
    args = parser.parse_args()
    log, card = entries(args.work), HERE / "README.md"
    text = replace_section(card.read_text(), "loss", loss_table(log))
    card.write_text(replace_section(text, "packages", package_table()))
    if args.svg:
        args.svg.write_text(loss_svg(log))


if __name__ == "__main__":
    main()
