"""Training of the heads on stored pools: the encoder is not run. In: pools of windows and examples; out: `Heads`.

Prompt and answer heads share nothing, so they are trained apart. Several are trained from different seeds and merged into one
wider `Heads` that gives exactly the mean of their logits.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from guard_server.labels import CATEGORIES, TASKS, Category, Direction
from guard_server.training.batches import Example, balanced
from guard_server.training.model import Heads, Outputs, Pools, Shape
from guard_server.training.recipe import HeadTraining, Texts
from guard_server.training.scored import HARM, REFUSAL, Logits

MISSING: Final = -100
"""The label of what isn't labelled (torch's own convention)."""
CHUNK: Final = 2_000
"""Texts scored at a time."""


@dataclass(frozen=True, slots=True)
class Bank:
    """Pools of every distinct window, and where each example's windows lie in it."""

    whole: Tensor
    """[windows, f], half precision."""
    answer: Tensor
    """[windows of answers, f]."""
    answer_row: Tensor
    """[windows]: the row in `answer`; for a prompt's window -1."""
    rows: Mapping[str, tuple[int, ...]]
    """By `key` of an example: its windows' rows in `whole`."""

    def pools(self, rows: Tensor) -> Pools:
        """Pools of some windows, float32."""
        whole = self.whole[rows].float()
        at = self.answer_row[rows]
        alone = (at < 0).unsqueeze(-1)
        answer = whole if bool(alone.all()) else torch.where(alone, whole, self.answer[at.clamp(min=0)].float())
        return Pools(whole, answer)


def key(example: Example) -> str:
    """What tells examples apart in a bank."""
    return "\x1f".join((*example.windows, "\x1e", example.context or ""))


@dataclass(frozen=True, slots=True)
class Batch:
    """Some examples' windows with their labels; `owner` says which example each window is of."""

    rows: Tensor
    owner: Tensor
    task: Tensor
    harm: Tensor
    refusal: Tensor
    category: Tensor
    weight: Tensor
    twin: Tensor
    """Position in the batch of a harmful example's harmless twin, else -1."""

    def worst(self, values: Tensor) -> Tensor:
        """The largest value over each example's windows, [examples, ...]; `values` is [windows, ...]."""
        return worst_of(values, self.owner, len(self.task))


def worst_of(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """The largest value over the windows of each of `count` texts, [count, ...]; `values` is [windows, ...]."""
    start = values.new_full((count, *values.shape[1:]), -torch.inf)
    index = owner.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
    return start.scatter_reduce(0, index, values, "amax")


def first_of(owner: Tensor) -> Tensor:
    """Which windows are the first of their texts, bool [windows]; windows of a text lie side by side."""
    return torch.cat([owner.new_ones(1).bool(), owner[1:] != owner[:-1]])


def batches(
    examples: Sequence[Example], weights: NDArray[np.float32], rows: Sequence[Sequence[int]], size: int, rng: np.random.Generator
) -> Iterator[Batch]:
    """One epoch in random order, twins side by side; `rows` holds each example's windows."""
    groups: dict[str, list[int]] = {}
    for at, example in enumerate(examples):
        groups.setdefault(example.pair or f"\x1f{at}", []).append(at)
    order = list(groups.values())
    chosen: list[int] = []
    for group in rng.permutation(len(order)):
        chosen += order[group]
        if len(chosen) >= size:
            yield batch_of(examples, weights, rows, chosen)
            chosen = []
    if chosen:
        yield batch_of(examples, weights, rows, chosen)


def batch_of(
    examples: Sequence[Example], weights: NDArray[np.float32], rows: Sequence[Sequence[int]], chosen: list[int]
) -> Batch:
    """The chosen examples, in their order, as one batch."""
    texts = [examples[at].text for at in chosen]
    names = list(CATEGORIES)
    harmless = {examples[at].pair: place for place, at in enumerate(chosen) if examples[at].text.harmful is False}
    return Batch(
        rows=torch.tensor([row for at in chosen for row in rows[at]]),
        owner=torch.tensor([place for place, at in enumerate(chosen) for _ in rows[at]]),
        task=torch.tensor([TASKS.index(text.task) for text in texts]),
        harm=torch.tensor([MISSING if text.harmful is None else int(text.harmful) for text in texts]),
        refusal=torch.tensor([MISSING if text.refused is None else int(text.refused) for text in texts]),
        category=torch.tensor(
            [MISSING if text.category is None or not text.harmful else names.index(Category(text.category)) for text in texts]
        ),
        weight=torch.tensor(weights[chosen]),
        twin=torch.tensor(
            [harmless.get(examples[at].pair, -1) if examples[at].pair and examples[at].text.harmful else -1 for at in chosen]
        ),
    )


def prompt_loss(harm: Tensor, task: Tensor, category: Tensor, batch: Batch, how: HeadTraining) -> Tensor:
    """The prompt heads' loss; logits per window: harm [w, 6], task [w, 6], category [w, 12]."""
    own_column = harm.gather(1, batch.task[batch.owner].unsqueeze(1)).squeeze(1)
    labels = batch.harm.float()
    score, anywhere = batch.worst(own_column), batch.worst(harm.mean(1))
    # Half of the loss is on the mean of all columns, so that a column with few examples follows the others.
    loss = 0.5 * (_binary(score, labels, how.smoothing) + _binary(anywhere, labels, how.smoothing)) * batch.weight
    total = loss.mean()
    first = first_of(batch.owner)
    total = total + how.task_loss * (nn.functional.cross_entropy(task[first], batch.task, reduction="none") * batch.weight).mean()
    kinds = nn.functional.cross_entropy(category, batch.category[batch.owner], ignore_index=MISSING, reduction="none")
    total = total + how.category_loss * (kinds * batch.weight[batch.owner]).sum() / len(batch.task)
    twins = batch.twin >= 0
    if how.twins and bool(twins.any()):
        margin = score[twins] - score[batch.twin[twins]]
        total = total + how.twins * (nn.functional.softplus(1 - margin) * batch.weight[twins]).sum() / len(batch.task)
    return total


def answer_loss(response: Tensor, batch: Batch, how: HeadTraining) -> Tensor:
    """The answer heads' loss; logits per window [w, 2]: harm of the worst window, refusal of the first, where refusals stand."""
    harm, refusal = batch.worst(response)[:, HARM], response[first_of(batch.owner)][:, REFUSAL]
    total = response.new_zeros(())
    for logits, labels in ((harm, batch.harm), (refusal, batch.refusal)):
        known = labels != MISSING
        if bool(known.any()):
            loss = _binary(logits[known], labels[known].float(), how.smoothing) * batch.weight[known]
            total = total + loss.sum() / len(labels)
    return total


def _binary(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    soft = labels * (1 - 2 * smoothing) + smoothing
    return nn.functional.binary_cross_entropy_with_logits(logits, soft, reduction="none")


def train_heads(
    examples: Sequence[Example], bank: Bank, width: int, shape: Shape, texts: Texts, how: HeadTraining, seed: int
) -> Heads:
    """Heads on the examples, the mean of `how.members`; the same seed gives the same bits."""
    members = [_train_one(examples, bank, width, shape, texts, how, seed * 1000 + member) for member in range(how.members)]
    return merged(members, width, shape)


def _train_one(
    examples: Sequence[Example], bank: Bank, width: int, shape: Shape, texts: Texts, how: HeadTraining, seed: int
) -> Heads:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        heads = Heads(width, shape).train()
        for direction in Direction:
            part = [example for example in examples if example.text.direction is direction]
            if part:
                _fit(heads, part, bank, texts, how, np.random.default_rng(seed))
    return heads.eval()


def _fit(heads: Heads, examples: list[Example], bank: Bank, texts: Texts, how: HeadTraining, rng: np.random.Generator) -> None:
    """Train the heads of the examples' direction (all are of one), in place."""
    prompts = examples[0].text.direction is Direction.PROMPT
    weights = balanced(examples, texts)
    rows = [bank.rows[key(example)] for example in examples]
    named = [item for item in heads.named_parameters() if prompts != item[0].startswith(("pair.", "response."))]
    optimiser = torch.optim.AdamW([value for _, value in named], lr=how.rate, weight_decay=how.decay)
    steps = how.epochs * -(-len(examples) // how.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: max(0.02, 0.5 * (1 + np.cos(np.pi * min(1, step / steps))))
    )
    for _ in range(how.epochs):
        for batch in batches(examples, weights, rows, how.batch, rng):
            pools = bank.pools(batch.rows)
            if prompts:
                hidden = heads.prompt(pools.whole)
                harm = heads.generic(hidden) + heads.offset(hidden)
                loss = prompt_loss(harm, heads.task(hidden), heads.category(hidden), batch, how)
            else:
                hidden = heads.pair(torch.cat([pools.whole, pools.answer], dim=-1))
                loss = answer_loss(heads.response(hidden), batch, how)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def merged(members: Sequence[Heads], width: int, shape: Shape) -> Heads:
    """One `Heads`, `len(members)` times as wide, whose logits are the mean of the members'."""
    count = len(members)
    wide = Heads(width, shape.model_copy(update={"hidden": shape.hidden * count}))
    states = [member.state_dict() for member in members]
    state: dict[str, Tensor] = {}
    for name, value in states[0].items():
        parts = [other[name] for other in states]
        if name.startswith(("prompt.", "pair.")):
            state[name] = torch.cat(parts)
        else:
            state[name] = torch.cat(parts, dim=1) / count if value.dim() > 1 else torch.stack(parts).mean(0)
    wide.load_state_dict(state)
    return wide.eval()


@torch.no_grad()
def logits_of(heads: Heads, examples: Sequence[Example], bank: Bank) -> Logits:
    """Logits of whole texts: harm of the worst window per column, task and refusal of the first, category of the worst."""
    return Logits.joined([_logits(heads, examples[at : at + CHUNK], bank) for at in range(0, len(examples), CHUNK)])


def _logits(heads: Heads, examples: Sequence[Example], bank: Bank) -> Logits:
    rows = [bank.rows[key(example)] for example in examples]
    owner = torch.tensor([place for place, part in enumerate(rows) for _ in part])
    columns = torch.tensor([TASKS.index(example.text.task) for example in examples])
    out: Outputs = heads(bank.pools(torch.tensor([row for part in rows for row in part])))
    starts = torch.tensor(np.cumsum([0, *map(len, rows[:-1])]))
    own = out.harm.gather(1, columns[owner].unsqueeze(1)).squeeze(1)
    # Windows of a text lie side by side: the first of those that reach the text's worst score.
    worst = [start + int(own[start : start + len(part)].argmax()) for start, part in zip(starts.tolist(), rows, strict=True)]
    count = len(examples)
    answers = worst_of(out.response, owner, count)
    answers[:, REFUSAL] = out.response[starts, REFUSAL]
    found = (out.task[starts], worst_of(out.harm, owner, count), out.category[worst], answers)
    task, harm, category, response = (part.double().numpy() for part in found)
    return Logits(task, harm, category, response)
