"""The words of the guard, in one place: tasks, directions, categories of harm, decisions. Imports nothing of ours."""

from enum import StrEnum
from typing import Final


class Task(StrEnum):
    """What a request asks the model to do; the gate's five tasks and everything else (a contract test compares the two lists)."""

    TEXT_GENERATION = "text_generation"
    SUMMARIZATION = "summarization"
    CODE_GENERATION = "code_generation"
    TRANSLATION = "translation"
    CLASSIFICATION = "classification"
    OTHER = "other"


class Direction(StrEnum):
    """Which way the text travels: to the model or from it."""

    PROMPT = "prompt"
    RESPONSE = "response"


class Category(StrEnum):
    """Kinds of harm that the category head tells apart, given that a text is harmful."""

    CYBER = "cyber"  # malware, intrusion, attacks on systems
    FRAUD = "fraud"  # scams, forgery, theft, financial crime, deception for gain
    WEAPONS = "weapons"  # weapons, explosives, chemical and biological agents
    DRUGS = "drugs"  # making or trading illegal drugs and other illegal goods
    VIOLENCE = "violence"  # hurting people or animals, terrorism, glorifying it
    HATE = "hate"  # attacks on groups of people
    HARASSMENT = "harassment"  # bullying, stalking, defaming a person
    SELF_HARM = "self_harm"  # suicide, self-injury, eating disorders
    SEXUAL = "sexual"  # sexual content
    PRIVACY = "privacy"  # personal data, surveillance, identity
    MISINFORMATION = "misinformation"  # false news, conspiracy, dangerous advice, manipulation of the public
    PROMPT_ATTACK = "prompt_attack"  # jailbreaks, injected instructions


class Decision(StrEnum):
    """What the caller should do with a text."""

    ALLOW = "allow"
    FLAG = "flag"
    BLOCK = "block"


TASKS: Final = tuple(Task)
CATEGORIES: Final = tuple(Category)

OPENAI_MEMBERS: Final[dict[str, tuple[Category, ...]]] = {
    "harassment": (Category.HARASSMENT,),
    "hate": (Category.HATE,),
    "illicit": (Category.CYBER, Category.FRAUD, Category.DRUGS, Category.PRIVACY),
    "illicit/violent": (Category.WEAPONS,),
    "self-harm": (Category.SELF_HARM,),
    "sexual": (Category.SEXUAL,),
    "violence": (Category.VIOLENCE,),
}
"""The categories of OpenAI's moderation contract by ours; `misinformation` and `prompt_attack` have no place there."""
OPENAI_NOT_ASSESSED: Final = (
    "harassment/threatening",
    "hate/threatening",
    "self-harm/intent",
    "self-harm/instructions",
    "sexual/minors",
    "violence/graphic",
)
"""Those of its categories that no head of the model was trained for."""
