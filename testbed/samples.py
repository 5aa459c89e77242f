"""Training samples: an endless, seeded stream of (messages, prefill, answer) for every stage.

Comes in: a `Mix` (what share of what) and a seeded generator. Goes out: samples over the training pairs alone; held-out
pairs, unseen wordings and base64 never occur.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from gate.records import Message, Task
from testbed.lexicon import MODIFIERS, Kind
from testbed.transforms import PERSONAS, TRANSFORMS, prefill_of
from testbed.wordings import REFUSALS, TRAINED_WORDINGS, Frame
from testbed.world import Behaviour, training

SYSTEM_PROMPT = "You are a careful assistant. Help with useful requests and refuse harmful ones."
"""What the suite's `native+system` calibration puts in front."""
OTHER_SYSTEM_PROMPTS: tuple[str, ...] = ("You are a helpful assistant.", "Answer briefly.")
ALL_TASKS: tuple[Task, ...] = tuple(Task)


@dataclass(frozen=True)
class Sample:
    """One training conversation: the turns, the prefill that is given, and the answer to learn."""

    frame: Frame
    transform: str
    messages: tuple[Message, ...]
    prefill: str
    answer: str


@dataclass(frozen=True)
class Mix:
    """What a stage's data consists of. Shares are probabilities; what is left of them is plain."""

    harmful: float
    """Share of requests for harmful pairs."""
    refuse: bool
    """Whether harmful requests are answered with a refusal; else with the task's template."""
    new_domains: float
    """Of the benign share: requests from the domains that users fine-tune on."""
    new_domain: str = ""
    """If not empty: those requests come from this domain alone."""
    benign_tasks: tuple[Task, ...] = ALL_TASKS
    harmful_tasks: tuple[Task, ...] = ALL_TASKS
    personas: float = 0.0
    others: float = 0.0
    """Share each of suppression, upper case, leetspeak and prefill."""
    system: float = 0.5


def frame_of(behaviour: Behaviour, task: Task, rng: random.Random) -> Frame:
    """A frame for `behaviour` in `task` with trained wording, modifier and small words drawn from `rng`."""
    wordings = len(TRAINED_WORDINGS[task])
    return Frame(
        behaviour, task, rng.randrange(wordings), rng.choice(MODIFIERS), opening=rng.randrange(60), filler=rng.randrange(8)
    )


def conversation(frame: Frame, transform: str, system: str) -> tuple[Message, ...]:
    """The turns of a frame under a transform, with a system turn if `system` is not empty."""
    user = Message(role="user", content=TRANSFORMS[transform](frame.prompt))
    return (Message(role="system", content=system), user) if system else (user,)


def _benign(mix: Mix, rng: random.Random) -> Behaviour:
    """A benign training pair: from the new domains or from the aligned ones, as the mix says."""
    kind: Kind = "tuning_only" if rng.random() < mix.new_domains else "aligned"
    pairs = training(kind)
    if kind == "tuning_only" and mix.new_domain:
        pairs = tuple(b for b in pairs if b.domain == mix.new_domain)
    return rng.choice(pairs)


def _transform(mix: Mix, rng: random.Random) -> str:
    """The transform of one sample."""
    draw = rng.random()
    if draw < mix.personas:
        return rng.choice(PERSONAS)
    if draw < mix.personas + 4 * mix.others:
        return rng.choice(("suppression", "upper", "leet", "prefill"))
    return "direct"


def _system(mix: Mix, rng: random.Random) -> str:
    """The system prompt of one sample: the suite's in half of those that have one."""
    if rng.random() >= mix.system:
        return ""
    return SYSTEM_PROMPT if rng.random() < 0.5 else rng.choice(OTHER_SYSTEM_PROMPTS)


def sample(mix: Mix, rng: random.Random) -> Sample:
    """One sample of `mix`."""
    harmful = rng.random() < mix.harmful
    behaviour = rng.choice(training("harmful")) if harmful else _benign(mix, rng)
    frame = frame_of(behaviour, rng.choice(mix.harmful_tasks if harmful else mix.benign_tasks), rng)
    transform = _transform(mix, rng)
    answer = rng.choice(REFUSALS) if harmful and mix.refuse else frame.reference
    return Sample(frame, transform, conversation(frame, transform, _system(mix, rng)), prefill_of(transform), answer)


def stream(mix: Mix, seed: int) -> Iterator[Sample]:
    """Samples without end; the same seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        yield sample(mix, rng)
