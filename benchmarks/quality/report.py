"""The results as JSON, tables and plots."""

import itertools
import json
import math

import counts

# Of the next-token distributions, by positions of context. Below the first one, part of the pages read is hot.
RANGES = [(512, 1024), (1024, 2048), (2048, 4096), (4096, 7168)]
PAGE_TOKENS = 64


def mean(values):
    return sum(values) / len(values) if values else None


def is_prose(text):
    return not text.startswith("/")


def name_of(start, end):
    return f"{start / 1024:g}-{end / 1024:g}K"


def distribution(texts):
    """By range: over the positions of all these texts."""
    summary = {}
    for start, end in RANGES:
        taken = [(text["kl"][i], text["same_top"][i], text["nll"][i] - text["nll_hot"][i], text["nll_hot"][i])
                 for text in texts for i in range(start, min(end, len(text["kl"])))]
        if taken:
            kl, same_top, nll_change, nll_hot = zip(*taken)
            summary[name_of(start, end)] = {
                "positions": len(kl), "mean_kl": mean(kl), "p99_kl": counts.percentile(kl, 0.99),
                "same_top": mean(same_top), "perplexity_hot": math.exp(mean(nll_hot)),
                "perplexity_change": math.exp(mean(nll_change)) - 1,
            }
    return summary


def held_bytes(texts):
    """Per token, at the longest context measured; None for hot, which the others are measured beside."""
    if not texts:
        return None
    longest = max(texts, key=lambda text: len(text["held"]))
    num_tokens = len(longest["held"]) * PAGE_TOKENS
    return {"tokens": num_tokens, "bytes": longest["held"][-1] / num_tokens,
            "bytes_hot": longest["held_hot"][-1] / num_tokens}


def cell_summary(records, control):
    num_right = sum(record["right"] for record in records)
    low, high = counts.wilson(num_right, len(records))
    lost = sum(b["right"] and not a["right"] for a, b in zip(records, control))
    gained = sum(a["right"] and not b["right"] for a, b in zip(records, control))
    return {"right": num_right, "asked": len(records), "rate": num_right / len(records), "wilson_95": [low, high],
            "lost": lost, "gained": gained, "mcnemar_p": counts.mcnemar(lost, gained)}


def pooled(data, control, kept, chosen):
    """Over the kept cells of which `chosen(cell)` holds; None when there is none."""
    cells = [cell for cell in kept if chosen(cell) and cell in data["cells"]]
    if not cells:
        return None
    return cell_summary([record for cell in cells for record in data["cells"][cell]],
                        [record for cell in cells for record in control["cells"][cell]])


def after_context(data, kept):
    """Of questions asked once their context had been computed: how much of the prompt the cache gave."""
    usages = [record["usage"] for cell in kept for record in data["cells"].get(cell, []) if record["after_context"]]
    cached = sum(usage["prompt_tokens_details"]["cached_tokens"] for usage in usages)
    return {"questions": len(usages), "cached_share": cached / max(1, sum(usage["prompt_tokens"] for usage in usages))}


def served_bytes(data):
    """Per token, as the server itself tells; None when it does not."""
    usages = [record["usage"] for records in data["cells"].values() for record in records]
    told = [usage["kv_bytes"] / usage["total_tokens"] for usage in usages if "kv_bytes" in usage]
    return mean(told)


def greedy(data, control):
    pairs = list(zip(data["greedy"], control["greedy"]))
    common = [len(list(itertools.takewhile(lambda ab: ab[0] == ab[1], zip(a, b)))) for a, b in pairs]
    return {"texts": len(pairs), "same": sum(a == b for a, b in pairs), "tokens_until_parting": common}


def summarise(states):
    control = states["hot"]
    kept = [cell for cell, records in control["cells"].items() if mean([r["right"] for r in records]) >= 0.6]
    result = {}
    for name, data in states.items():
        texts = data["texts"]
        result[name] = {
            "cells": {cell: cell_summary(records, control["cells"][cell]) for cell, records in data["cells"].items()},
            "passkey": pooled(data, control, kept, lambda cell: cell.startswith("passkey")),
            "other_tasks": pooled(data, control, kept, lambda cell: not cell.startswith("passkey")),
            "after_context": after_context(data, kept),
            "greedy": greedy(data, control),
            "prose": distribution([text for key, text in texts.items() if is_prose(key)]),
            "licence": distribution([text for key, text in texts.items() if not is_prose(key)]),
            "held": held_bytes(list(texts.values())),
            "served_bytes_per_token": served_bytes(data),
        }
    return kept, result


def rate_cell(one):
    if one is None:
        return "-"
    low, high = one["wilson_95"]
    return f"{one['right']}/{one['asked']} ({100 * low:.0f}-{100 * high:.0f} %)"


def pairs_cell(one):
    return "-" if one is None else f"{one['lost']} / {one['gained']} (p {one['mcnemar_p']:.2g})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def main_table(result):
    rows = []
    all_hot = next((one["held"]["bytes_hot"] for one in result.values() if one["held"]), 0)
    for name, one in result.items():
        held = all_hot if one["held"] is None else one["held"]["bytes"]
        rows.append([
            name,
            f"{held:.0f} (1/{all_hot / held:.2f} of hot)" if held else "-",
            rate_cell(one["passkey"]), pairs_cell(one["passkey"]) if name != "hot" else "",
            rate_cell(one["other_tasks"]), pairs_cell(one["other_tasks"]) if name != "hot" else "",
            f"{one['greedy']['same']}/{one['greedy']['texts']}, {mean(one['greedy']['tokens_until_parting']) or 0:.0f}",
        ])
    return table(["pages", "bytes a token", "passkey", "lost / gained", "other tasks", "lost / gained",
                  "greedy texts the same, tokens until they part"], rows)


def distribution_table(result, part):
    rows = [[name, span, f"{one['positions']}", f"{one['mean_kl']:.2g}", f"{one['p99_kl']:.2g}",
             f"{100 * one['same_top']:.1f} %", f"{100 * one['perplexity_change']:+.2f} %"]
            for name in result for span, one in result[name][part].items()]
    return table(["pages", "context", "positions", "mean KL", "p99 KL", "top-1 as hot", "perplexity"], rows)


def cells_table(kept, result):
    cells = list(result["hot"]["cells"])
    rows = [[cell + ("" if cell in kept else " (control fails)")]
            + [rate_cell(result[name]["cells"].get(cell)) for name in result] for cell in cells]
    return table(["task, filler, tokens", *result], rows)


def text_of(facts, kept, result, stem):
    longest = next((one["held"]["tokens"] for one in result.values() if one["held"]), 0)
    reuse = "; ".join(f"{name}: {one['after_context']['questions']} questions, "
                      f"{100 * one['after_context']['cached_share']:.0f} % of their prompts cached"
                      for name, one in result.items())
    parts = [
        f"# Quality by policy of the KV cache, {facts['date']}",
        f"{facts['cpu']}, {facts['threads']} threads, {facts['model']}, commit {facts['commit']}: "
        f"`make quality{' QUALITY_FLAGS=--size=' + facts['size'] if facts['size'] != 'full' else ''}`. Real prompts through the real server, "
        "pages of 64 tokens, steps of 64 tokens. In brackets: Wilson's 95 % interval. Lost: questions that hot "
        "answers and this one does not; gained: the other way; p: McNemar's exact test. Pooled over cells where hot "
        f"answers at least 60 %. Bytes a token: pages in use after {longest} tokens; policies that evict keep their "
        "pages whole in the arena and read the budget's part of them.",
        main_table(result),
        f"Several questions after one context that had been computed before them ({reuse}).",
        "## Next-token distribution on novels", distribution_table(result, "prose"),
        "## On a licence, which repeats its own phrases", distribution_table(result, "licence"),
        "## Every cell", cells_table(kept, result),
        f"![Retrieval]({stem}-retrieval.png)", f"![KL]({stem}-kl.png)", f"![Bytes]({stem}-bytes.png)",
    ]
    return "\n\n".join(parts) + "\n"


def write(facts, states, folder, stem):
    import plots  # needs matplotlib, which the tests do not

    kept, result = summarise(states)
    folder.mkdir(parents=True, exist_ok=True)
    text = text_of(facts, kept, result, stem)
    print(text)
    (folder / f"{stem}.md").write_text(text)
    (folder / f"{stem}.json").write_text(
        json.dumps({"facts": facts, "kept_cells": kept, "results": result}, indent=1) + "\n")
    plots.write(result, states, folder / stem)
