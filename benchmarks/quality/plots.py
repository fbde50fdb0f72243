"""Pictures of the results."""

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

import counts

PAGE_TOKENS = 64


def save(figure, path, title, x, y):
    axes = figure.gca()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def retrieval(result, path):
    """Passkey by length, both fillers together."""
    figure = pyplot.figure(figsize=(7, 4))
    for place, (name, one) in enumerate(result.items()):
        by_length = {}
        for cell, summary in one["cells"].items():
            task, _, length = cell.split("/")
            if task == "passkey":
                right, asked = by_length.get(int(length), (0, 0))
                by_length[int(length)] = (right + summary["right"], asked + summary["asked"])
        lengths = sorted(by_length)
        shift = 1 + 0.02 * (place - len(result) / 2)  # else equal points hide each other
        rates = [100 * by_length[length][0] / by_length[length][1] for length in lengths]
        ends = [[100 * end for end in counts.wilson(*by_length[length])] for length in lengths]
        bars = [[max(0, rate - low) for rate, (low, _) in zip(rates, ends)],
                [max(0, high - rate) for rate, (_, high) in zip(rates, ends)]]
        pyplot.errorbar([length * shift for length in lengths], rates, yerr=bars, fmt="o-", capsize=2, label=name,
                        alpha=0.8)
    pyplot.xscale("log", base=2)
    pyplot.xlim(900, 8192)
    ticks = [1024, 2048, 4096, 7168]
    pyplot.xticks(ticks, [f"{tick / 1024:g}K" for tick in ticks])
    pyplot.ylim(-3, 103)
    save(figure, path, "Passkey retrieved, with Wilson's 95 % intervals", "tokens of the prompt", "%")


def divergence(result, path):
    figure = pyplot.figure(figsize=(7, 4))
    for name, one in result.items():
        spans = {span: summary["mean_kl"] for span, summary in one["prose"].items() if summary["mean_kl"] > 0}
        if spans:
            pyplot.plot(list(spans), list(spans.values()), "o-", label=name)
    pyplot.yscale("log")
    save(figure, path, "Mean KL to all-hot, novels", "context (tokens)", "nats")


def held(states, path):
    figure = pyplot.figure(figsize=(7, 4))
    hot_drawn = False
    for name, data in states.items():
        if not data["texts"]:
            continue
        longest = max(data["texts"].values(), key=lambda text: len(text["held"]))
        lines = {name: longest["held"]} if hot_drawn else {"hot": longest["held_hot"], name: longest["held"]}
        hot_drawn = True
        for label, values in lines.items():
            tokens = [(i + 1) * PAGE_TOKENS for i in range(len(values))]
            pyplot.plot(tokens, [value / 2**20 for value in values], label=label)
    save(figure, path, "Pages in use by one sequence", "tokens read", "MiB")


def write(result, states, stem):
    retrieval(result, stem.with_name(stem.name + "-retrieval.png"))
    divergence(result, stem.with_name(stem.name + "-kl.png"))
    held(states, stem.with_name(stem.name + "-bytes.png"))
