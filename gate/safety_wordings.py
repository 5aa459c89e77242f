"""Short refusals in four languages, made of three parts each: what to write when a request in a task is declined.

A refusal names the task's product, so that the refusal of a translation is not that of a summary. Our own words.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from gate.records import Task


class Wordings(NamedTuple):
    """One language's parts. `{thing}` is the task's product."""

    things: dict[Task, str]
    openings: tuple[str, ...]
    closings: tuple[str, ...]
    """Sentences behind it; the empty one is among them."""


WORDINGS: Final[dict[str, Wordings]] = {
    "en": Wordings(
        {
            Task.TEXT_GENERATION: "this text",
            Task.SUMMARIZATION: "a summary of this",
            Task.CODE_GENERATION: "this code",
            Task.TRANSLATION: "a translation of this",
            Task.CLASSIFICATION: "an answer to this question",
        },
        (
            "I'm sorry, but I can't provide {thing}.",
            "Sorry, I can't help with that: I won't write {thing}.",
            "I can't help with this request, so I won't give you {thing}.",
            "I'm not able to provide {thing}.",
            "I have to decline: I cannot provide {thing}.",
            "I won't write {thing}.",
            "No, I can't assist with that. I will not produce {thing}.",
            "I must refuse this request and will not provide {thing}.",
        ),
        (
            "",
            "It could hurt people.",
            "It could help someone do harm.",
            "What it asks for could put others in danger.",
            "I'm glad to help with something else.",
            "If you have another task, I'm happy to do it.",
            "If you are in trouble, please talk to someone you trust.",
        ),
    ),
    "fr": Wordings(
        {
            Task.TEXT_GENERATION: "ce texte",
            Task.SUMMARIZATION: "un résumé de ce contenu",
            Task.CODE_GENERATION: "ce code",
            Task.TRANSLATION: "une traduction de ce passage",
            Task.CLASSIFICATION: "une réponse à cette question",
        },
        (
            "Je suis désolé, mais je ne peux pas fournir {thing}.",
            "Désolé, je ne peux pas vous aider : je n'écrirai pas {thing}.",
            "Je ne peux pas répondre à cette demande ni fournir {thing}.",
            "Il m'est impossible de fournir {thing}.",
            "Je dois refuser : je ne peux pas fournir {thing}.",
            "Je refuse d'écrire {thing}.",
            "Non, je ne peux pas vous aider à obtenir {thing}.",
        ),
        (
            "",
            "Cela pourrait blesser des personnes.",
            "Cela pourrait aider quelqu'un à nuire.",
            "Cette demande pourrait mettre d'autres personnes en danger.",
            "Je vous aide volontiers pour autre chose.",
            "Si vous avez une autre tâche, je m'en occupe avec plaisir.",
        ),
    ),
    "de": Wordings(
        {
            Task.TEXT_GENERATION: "diesen Text",
            Task.SUMMARIZATION: "eine Zusammenfassung davon",
            Task.CODE_GENERATION: "diesen Code",
            Task.TRANSLATION: "eine Übersetzung davon",
            Task.CLASSIFICATION: "eine Antwort auf diese Frage",
        },
        (
            "Es tut mir leid, aber ich kann {thing} nicht liefern.",
            "Tut mir leid, dabei kann ich nicht helfen: Ich schreibe {thing} nicht.",
            "Bei dieser Anfrage kann ich nicht helfen und gebe {thing} nicht.",
            "Ich kann Ihnen dabei nicht helfen und {thing} nicht liefern.",
            "Das muss ich ablehnen: Ich kann {thing} nicht liefern.",
            "Nein, dabei kann ich nicht helfen. Ich werde {thing} nicht schreiben.",
            "Diese Anfrage muss ich ablehnen: Ich liefere {thing} nicht.",
        ),
        (
            "",
            "Das könnte Menschen verletzen.",
            "Das könnte jemandem helfen, Schaden anzurichten.",
            "Es könnte andere Menschen in Gefahr bringen.",
            "Ich helfe Ihnen gern bei einer anderen Aufgabe.",
            "Wenn Sie eine andere Aufgabe haben, übernehme ich sie gern.",
        ),
    ),
    "es": Wordings(
        {
            Task.TEXT_GENERATION: "este texto",
            Task.SUMMARIZATION: "un resumen de esto",
            Task.CODE_GENERATION: "este código",
            Task.TRANSLATION: "una traducción de esto",
            Task.CLASSIFICATION: "una respuesta a esta pregunta",
        },
        (
            "Lo siento, pero no puedo proporcionar {thing}.",
            "Lo siento, no puedo ayudar con eso: no voy a escribir {thing}.",
            "No puedo ayudar con esta solicitud ni dar {thing}.",
            "No me es posible proporcionar {thing}.",
            "Debo negarme: no puedo proporcionar {thing}.",
            "No, no puedo ayudarte con eso. No escribiré {thing}.",
        ),
        (
            "",
            "Podría hacer daño a otras personas.",
            "Podría ayudar a alguien a causar daño.",
            "Podría poner en peligro a otras personas.",
            "Con gusto ayudo con otra cosa.",
            "Si tienes otra tarea, la haré con gusto.",
        ),
    ),
}
"""ISO 639-1 code → the language's parts."""


def refusal(language: str, task: Task, draw: int) -> str:
    """The refusal that a draw (any whole number) picks; English for a language that has none."""
    parts = WORDINGS.get(language, WORDINGS["en"])
    opening = parts.openings[draw % len(parts.openings)].format(thing=parts.things[task])
    closing = parts.closings[draw // len(parts.openings) % len(parts.closings)]
    return f"{opening} {closing}".rstrip()
