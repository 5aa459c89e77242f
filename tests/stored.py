"""What an answer log holds, as sorted places: read through its own methods."""

from __future__ import annotations

from gate.answer_log import AnswerLog, Place


def stored_places(log: AnswerLog) -> list[Place]:
    """Where the log has an answer or a reason for none."""
    return sorted((answer.case_id, answer.sample) for answer in log.answers())


def judged_places(log: AnswerLog) -> list[Place]:
    """Where the log has an answer with an opinion of the run's judge."""
    return [place for place in stored_places(log) if log.opinion(place) is not None]
