"""Folds that leave whole sets out: the only ground on which anything about the model is chosen.

In: dataset names. Out: the fold that leaves each out. Sets that share texts (AdvBench and its code-wrapped form; XSafety and its
translations) leave together, and every fold leaves out harmful and harmless sets. Pure.
"""

from collections.abc import Iterable
from typing import Final

FOLDS: Final[tuple[tuple[str, ...], ...]] = (
    ("advbench", "codeattack", "cyberseceval_mitre_frr", "dangerousqa"),
    ("cysecbench", "do_not_answer", "mbpp_sanitized"),
    ("cyberseceval_interpreter", "harmfulqa", "openai_moderation"),
    ("catqa", "gptfuzz_labeled_train", "inthewild_jailbreaks", "self_instruct_seed"),
    ("banking77_classification", "cyberseceval_prompt_injection", "latent_jailbreak_human", "xsafety", "xsafety_translation_fr"),
)
"""The foreign sets that each fold leaves out."""


def assign(datasets: Iterable[str]) -> dict[str, int]:
    """The fold that leaves each set out; own families, in the order of their names, go round the folds.

    Raises `ValueError` for a foreign set that stands in no fold: it would be trained on in all of them and scored in none.
    """
    fixed = {name: at for at, names in enumerate(FOLDS) for name in names}
    names = sorted(set(datasets))
    own = [name for name in names if name.startswith("own_")]
    if strange := [name for name in names if name not in fixed and not name.startswith("own_")]:
        msg = f"in no fold: {strange}"
        raise ValueError(msg)
    return {name: fixed[name] for name in names if name in fixed} | {name: at % len(FOLDS) for at, name in enumerate(own)}
