"""The trade-off that the tries trace: safety bought, help lost. Tries come in; Markdown and an SVG drawing go out. Pure.

Each point is one setting on the tuning half: across, the worst share of harmless requests refused or, where the policy limits
it, the benign quality lost; up, the worst share of attacks answered. A setting whose cost was not measured stands aside.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

from gate.repair.card import RepairCard, Try

_MARKERS = "osD^vP*Xhd"
_ASIDE = 0.2
"""Share of the costs' span that points without one are drawn beside it."""


def as_markdown(card: RepairCard) -> str:
    """The tries as a table, with what was not tried and what the gate said."""
    lines = [
        "# Repair",
        "",
        f"Policy `{card.policy_name}`, limits lowered by {card.margin:.0%} on the tuning half.",
        "",
        "| method | setting | answered, worst | answered, mean | over-refusal, worst | utility lost | tuning half | not met |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tried in card.tries:
        cells = [
            tried.method,
            tried.setting.label or "–",
            _percent(tried.worst_answered),
            _percent(tried.mean_answered),
            _percent(tried.worst_over_refusal),
            _percent(tried.mean_utility_drop),
            tried.decision.upper(),
            ", ".join(tried.lacks) or "–",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Shares are as read when each cell was decided, and no estimates: a cell that is decided is read no further.",
        "",
    ]
    if card.untried:
        lines += ["Not tried:", "", *(f"- {item.method}: {item.why}" for item in card.untried), ""]
    if card.serves_as_it_is:
        kept = [c for c, met in card.serves_as_it_is.items() if met]
        says = f"met under {', '.join(kept)}" if kept else "met under none of the policy's calibrations"
        lines += [f"The candidate as it is, on the tuning half: the limits are {says}.", ""]
    return "\n".join([*lines, _outcome(card), ""])


def _outcome(card: RepairCard) -> str:
    if card.chosen is None:
        return "**No setting meets the policy.**"
    if card.held_out is None:
        return f"Chosen: {card.chosen.label}."
    verdict = card.held_out
    return (
        f"Chosen: {card.chosen.label}. On the held-out half (look {verdict.look}, α_pass {verdict.alpha_pass:.4g}): "
        f"**{verdict.decision.upper()}**. {verdict.reason}"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def as_svg(tries: Sequence[Try], limit: float) -> str:
    """The curve as SVG, the same bytes for the same tries; points of a method are joined in the order of their settings."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "taskgate", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        by_drop = any(t.mean_utility_drop is not None for t in tries)
        costs = [cost for t in tries if (cost := _cost(t, by_drop)) is not None]
        unmeasured = len(costs) < len(tries)
        low, high = min([0.0, *costs]), max([1.0, *costs])
        span = high - low
        aside = low - _ASIDE * span
        for number, method in enumerate(dict.fromkeys(t.method for t in tries)):
            marker = _MARKERS[number % len(_MARKERS)]
            own = sorted((t for t in tries if t.method == method), key=lambda t: t.worst_answered or 0.0)
            points = [(_cost(t, by_drop), 100 * t.worst_answered, t) for t in own if t.worst_answered is not None]
            known = [(cost, up) for cost, up, _ in points if cost is not None]
            (line,) = axes.plot([cost for cost, _ in known], [up for _, up in known], linewidth=1, label=f"_{method}")
            drawn = [(aside if cost is None else cost, up, tried) for cost, up, tried in points]
            axes.plot(
                [x for x, *_ in drawn], [y for _, y, _ in drawn], marker, color=line.get_color(), fillstyle="none", label=method
            )
            for x, y, tried in drawn:
                axes.annotate(tried.setting.label, (x, y), textcoords="offset points", xytext=(6, 4), fontsize=6)
        axes.set_xlim(low - (2 * _ASIDE if unmeasured else _ASIDE / 2) * span, high + _ASIDE * span)
        if unmeasured:
            ticks = [float(tick) for tick in axes.get_xticks() if low <= tick <= high]
            axes.set_xticks([aside, *ticks], ["not measured", *(f"{tick:g}" for tick in ticks)])
            axes.axvline(low - _ASIDE / 2 * span, linewidth=0.5, color="grey")
        axes.axhline(100 * limit, linestyle="--", linewidth=1, color="black", label=f"limit {100 * limit:g} %")
        axes.set_xlabel("benign quality lost (points)" if by_drop else "harmless requests refused, worst cell (%)")
        axes.set_ylabel("attacks answered, worst cell (%)")
        axes.set_title("Repair: what each setting buys and costs (tuning half)", fontsize=10)
        axes.legend(fontsize=7)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": "taskgate"})
    return out.getvalue()


def _cost(tried: Try, by_drop: bool) -> float | None:
    """In points or per cent; None where it was not measured: a setting that answers too much is not asked for its quality."""
    found = tried.mean_utility_drop if by_drop else tried.worst_over_refusal
    return None if found is None else 100 * found
