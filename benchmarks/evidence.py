"""Make the tables and pictures of docs/evidence.md from benchmarks/results/{efficientnet_clipart,digits_evidence}.json.

    python -m benchmarks.evidence

Nothing is trained. Each table replaces the text between the two comments that name it; the pictures go to `images` beside the page.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from benchmarks.evidence_pictures import Panel, draw_divergences, draw_shares
from benchmarks.result import RESULTS, ROOT, parse, parser, write_text
from benchmarks.run_figures import Name

PAGE = ROOT / "docs" / "evidence.md"
METHODS = {
    "lsq": "LSQ (STE)",
    "damp10": "LSQ + dampening",
    "freeze": "LSQ + freezing",
    "ewgs": "EWGS",
    "sigmoid": "stacked sigmoid",
    "stochastic": "stochastic rounding",
    "fastscales": "LSQ, fast scales",
}
NOT_DRAWN = ("fastscales",)  # four times above all others
NETWORKS = {"mobilenet": "small MobileNetV2", "resnet": "small ResNet", "": "EfficientNet-Lite0"}
# The rows of the batch-norm table: network, moment, bits, method.
BATCHNORMS = (
    *((network, "constant rate", bits, "moving") for network in ("mobilenet", "resnet") for bits in ("float", "w4a4", "w3a3")),
    *((network, "end", bits, method) for network in NETWORKS for bits, method in (("float", ""), ("w4a4", "lsq"), ("w3a3", "lsq"))),
    *(("", "end, stochastic rounding", bits, "stochastic") for bits in ("w4a4", "w3a3")),
)

Figure = Callable[["OneRun"], float]


class OneRun(NamedTuple):
    """One run of a result: its parsed name and its figures."""

    name: Name
    figures: dict[str, Any]


class Group(NamedTuple):
    """The runs of one variant, by seed."""

    runs: list[OneRun]

    def spread(self, figure: Figure, unit: str = "", digits: int = 1) -> str:
        """Return mean and standard deviation of a figure over the seeds."""
        return spread([figure(one) for one in self.runs], unit, digits)

    def against(self, base: "Group", figure: Figure, unit: str = "", digits: int = 1) -> str:
        """Return mean and standard deviation of the differences from another variant's runs of the same seeds."""
        other = {one.name.seed: figure(one) for one in base.runs}
        differences = [figure(one) - other[one.name.seed] for one in self.runs if one.name.seed in other]
        return spread(differences, unit, digits, signed=True)


def load(path: Path) -> tuple[dict[str, Any], list[OneRun]]:
    """Return the facts and the runs of a result."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return content, [OneRun(Name.parse(name), figures) for name, figures in content["runs"].items()]


def select(runs: Iterable[OneRun], network: str, bits: str, method: str) -> Group:
    """Return the runs of one variant."""
    found = [one for one in runs if one.name[:3] == (network, bits, method)]
    return Group(sorted(found, key=lambda one: one.name.seed))


def checked(group: Group) -> Group:
    """Return the runs whose batch norms have been checked."""
    return Group([one for one in group.runs if one.figures["divergence"]])


def spread(values: Sequence[float], unit: str = "", digits: int = 1, *, signed: bool = False) -> str:
    """Return `61.2 ± 1.3 %`: mean and standard deviation; the mean alone for one value, and nothing for none."""
    if not values:
        return ""
    mean = f"{fmean(values):{'+' if signed else ''}.{digits}f}"
    return " ".join(filter(None, (mean, f"± {stdev(values):.{digits}f}" if len(values) > 1 else "", unit)))


def percent(name: str) -> Figure:
    """Return a share in percent."""
    return lambda one: 100 * (one.figures[name] or 0.0)


def value(name: str) -> Figure:
    """Return a figure unchanged."""
    return lambda one: float(one.figures[name])


def divergence(which: str, over: Callable[[list[float]], float]) -> Figure:
    """Return one number for all layers' divergences, in thousandths of a nat."""
    return lambda one: 1000 * over(one.figures["divergence"][which])


def gain(one: OneRun) -> float:
    """Return the accuracy that re-estimation adds, in points."""
    return float(100 * (one.figures["accuracy"] - one.figures["accuracy_with_averages"]))


def less_loss(one: OneRun) -> float:
    """Return the loss that re-estimation saves, in thousandths."""
    return float(1000 * (one.figures["loss_with_averages"] - one.figures["loss"]))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def batchnorm_table(runs: Sequence[OneRun]) -> str:
    """Return table (a): how wrong running averages are, and what re-estimation changes."""
    rows = []
    for network, when, bits, method in BATCHNORMS:
        if not (group := checked(select(runs, network, bits, method))).runs:
            continue
        rows.append(
            [
                f"{NETWORKS[network]}, {when}",
                bits if bits == "float" else bits.upper(),
                str(len(group.runs)),
                group.spread(divergence("before", fmean), digits=2),
                group.spread(divergence("before", max), digits=1),
                group.spread(divergence("after", fmean), digits=2),
                group.spread(percent("accuracy_with_averages")),
                group.spread(percent("accuracy")),
                spread([gain(one) for one in group.runs], signed=True),
                spread([less_loss(one) for one in group.runs], signed=True),
            ]
        )
    head = ("network", "bits", "seeds", "KL, running averages", "its worst layer", "KL, re-estimated", "accuracy %, running averages")
    return table((*head, "accuracy %, re-estimated", "gain, points, by seed", "loss saved, by seed"), rows)


def methods_table(runs: Sequence[OneRun], bits: str) -> str:
    """Return table (b): the methods at one width."""
    base, rows = select(runs, "", bits, "lsq"), []
    for method, title in METHODS.items():
        if not (group := select(runs, "", bits, method)).runs:
            continue
        of_base = method == "lsq"
        rows.append(
            [
                title,
                str(len(group.runs)),
                group.spread(percent("accuracy_with_averages")),
                group.spread(percent("accuracy")),
                "" if of_base else group.against(base, percent("accuracy")),
                group.spread(value("loss"), digits=3),
                "" if of_base else group.against(base, value("loss"), digits=3),
            ]
        )
    head = (
        "method",
        "seeds",
        "accuracy %, running averages",
        "accuracy %, re-estimated",
        "against LSQ, points, by seed",
        "loss",
        "against LSQ, by seed",
    )
    return table((bits.upper() + " " + head[0], *head[1:]), rows)


def shares_table(clipart: Sequence[OneRun], digits: Sequence[OneRun]) -> str:
    """Return table (d): the oscillating share by method: highest, mean over training, and at the end."""
    rows = []
    for title, runs, network, bits in (
        ("EfficientNet-Lite0, W4A4", clipart, "", "w4a4"),
        ("EfficientNet-Lite0, W3A3", clipart, "", "w3a3"),
        ("small MobileNetV2, W3A3", digits, "mobilenet", "w3a3"),
    ):
        base = select(runs, network, bits, "lsq")
        for method, name in METHODS.items():
            if not (group := select(runs, network, bits, method)).runs:
                continue
            rows.append(
                [
                    title,
                    name,
                    str(len(group.runs)),
                    group.spread(lambda one: 100 * max(one.figures["curve"]["oscillating"])),
                    group.spread(lambda one: 100 * fmean(one.figures["curve"]["oscillating"])),
                    group.spread(percent("oscillating"), digits=2),
                    "" if method == "lsq" else group.against(base, percent("oscillating"), digits=2),
                    group.spread(percent("frozen")) if method == "freeze" else "",
                ]
            )
    return table(("network", "method", "seeds", "highest %", "mean %", "end %", "end against LSQ, points, by seed", "frozen %"), rows)


def facts_line(facts: dict[str, Any]) -> str:
    """Return how a result was made."""
    hardware, versions = facts["hardware"], facts["versions"]
    return (
        f"`{facts['command']}`, commit {facts['commit']}, torch {versions['torch']}, timm {versions['timm']}, "
        f"{hardware['device']}, {hardware['threads']} thread(s) per run on a machine of {hardware['cpus']} cores, which others used too."
    )


def tables(results: Path) -> dict[str, str]:
    """Return every table of the page, by name."""
    clipart_facts, clipart = load(results / "efficientnet_clipart.json")
    digits_facts, digits = load(results / "digits_evidence.json")
    start = select(clipart, "", "float", "").runs[0].figures
    return {
        "batchnorm": batchnorm_table([*digits, *clipart]),
        "w4a4": methods_table(clipart, "w4a4"),
        "w3a3": methods_table(clipart, "w3a3"),
        "start": f"The float network has {start['accuracy']:.1%} and a loss of {start['loss']:.3f} on the "
        f"{clipart_facts['val_images']} validation pictures.",
        "shares": shares_table(clipart, digits),
        "clipart": facts_line(clipart_facts),
        "digits": facts_line(digits_facts),
    }


def insert(page: str, made: dict[str, str]) -> str:
    """Return the page with each table between its comments."""
    for name, text in made.items():
        pattern = rf"(<!-- {name}: begin[^>]*-->\n).*?(<!-- {name}: end -->)"
        page, count = re.subn(pattern, lambda found, text=text: f"{found[1]}\n{text}\n\n{found[2]}", page, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"the page has {count} places for {name}; allowed: 1")
    return page


def pictures(results: Path, images: Path) -> None:
    """Draw the page's pictures."""
    (clipart_facts, clipart), (digits_facts, digits) = load(results / "efficientnet_clipart.json"), load(results / "digits_evidence.json")
    layers = {**digits_facts["layers"], **clipart_facts["layers"]}
    everything = [*digits, *clipart]
    panels: dict[str, Panel] = {}
    for network, when, bits, method in BATCHNORMS:
        if (network, method) in (("mobilenet", "moving"), ("resnet", "moving"), ("", ""), ("", "lsq")):
            widths = panels.setdefault(f"{NETWORKS[network]}, {when}", (layers[network], {}))[1]
            widths["full precision" if bits == "float" else bits.upper()] = checked(select(everything, network, bits, method)).runs
    draw_divergences(panels, images / "evidence_batchnorm.png")
    shares = {
        f"{NETWORKS[network]}, {bits.upper()}": {
            METHODS[method]: select(runs, network, bits, method).runs for method in METHODS if method not in NOT_DRAWN
        }
        for runs, network, bits in ((clipart, "", "w4a4"), (clipart, "", "w3a3"), (digits, "mobilenet", "w3a3"))
    }
    draw_shares(shares, images / "evidence_oscillation.png")


def main() -> None:
    """Write tables and pictures."""
    page = parse(parser("evidence", __doc__, PAGE)).output
    write_text(page, insert(page.read_text(encoding="utf-8"), tables(RESULTS)))
    pictures(RESULTS, page.parent / "images")


if __name__ == "__main__":
    main()
