"""Folds that leave whole sets out: the only ground on which anything about the model is chosen.

In: how many texts of which kind each set has. Out: the fold that leaves each set out. Sets that share texts (AdvBench and its
code-wrapped form; XSafety and its translations) leave together, and every fold leaves out harmful and harmless sets. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from guard_server.training.scored import Text

FOLDS: Final[tuple[tuple[str, ...], ...]] = (
    ("advbench", "codeattack", "cyberseceval_mitre_frr", "dangerousqa"),
    ("cysecbench", "do_not_answer", "mbpp_sanitized"),
    ("cyberseceval_interpreter", "harmfulqa", "openai_moderation"),
    ("catqa", "gptfuzz_labeled_train", "inthewild_jailbreaks", "self_instruct_seed"),
    ("banking77_classification", "cyberseceval_prompt_injection", "latent_jailbreak_human", "xsafety", "xsafety_translation_fr"),
)
"""The foreign sets that each fold leaves out."""

Kinds = Mapping[str, Mapping[str, int]]
"""By set: how many texts it has of each kind (direction, task, label)."""


def kinds_of(texts: Iterable[Text]) -> Kinds:
    """Counts of the texts' kinds by set."""
    found: dict[str, Counter[str]] = {}
    for text in texts:
        kind = f"{text.direction}/{text.task}/{text.harmful}/{text.refused}"
        found.setdefault(text.dataset, Counter())[kind] += 1
    return found


def assign(kinds: Kinds) -> dict[str, int]:
    """The fold that leaves each set out; own families, the largest first, go where the least of their kinds is left out already.

    So no fold leaves out all that there is of a kind while another set of that kind exists. Raises `ValueError` for a foreign set
    that stands in no fold: it would be trained on in all of them and scored in none.
    """
    fixed = {name: at for at, names in enumerate(FOLDS) for name in names}
    if strange := sorted(name for name in kinds if name not in fixed and not name.startswith("own_")):
        msg = f"in no fold: {strange}"
        raise ValueError(msg)
    where = {name: fixed[name] for name in sorted(kinds) if name in fixed}
    gone = [Counter[str]() for _ in FOLDS]
    for name, fold in where.items():
        gone[fold].update(kinds[name])
    total: Counter[str] = Counter()
    for counts in kinds.values():
        total.update(counts)
    for name in sorted(kinds.keys() - where.keys(), key=lambda name: (-sum(kinds[name].values()), name)):
        counts = kinds[name]
        fold = min(range(len(FOLDS)), key=lambda at: (_left_out(counts, gone[at], total), at))
        gone[fold].update(counts)
        where[name] = fold
    return where


def _left_out(counts: Mapping[str, int], gone: Mapping[str, int], total: Mapping[str, int]) -> float:
    """How much of the set's kinds a fold would leave out with it: the mean share, squared so that one large share counts."""
    size = sum(counts.values())
    return sum(count / size * ((gone[kind] + count) / total[kind]) ** 2 for kind, count in counts.items())
