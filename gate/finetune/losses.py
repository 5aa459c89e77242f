"""The losses of multitask fine-tuning (MFTCoder, arXiv 2311.02303): token losses and whose they are come in, a sum goes out.

With l_ijk the loss of token k of row j of task i, and T_ij the row's number of trained tokens:

    token_mean   sum_ijk l_ijk / sum_ij T_ij
    sample_mean  mean over rows of sum_k l_ijk / T_ij
    task_mean    sum_i w_i (sum_jk l_ijk / sum_j T_ij) / sum_i w_i, over the tasks that are present

Each is a weighted sum over rows, whose coefficients depend on counts over the *whole* batch of an optimizer step: all its
micro-batches, on all processes. So every part adds up to the loss of the whole, however the batch is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Loss = Literal["token_mean", "sample_mean", "task_mean"]
IGNORED = -100
"""Label of a token that is not trained on, as in transformers."""


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of every trained token, in order, and the row that each belongs to.

    `logits` is rows × width × vocabulary, `labels` rows × width; the token at a place is foretold at the place before it.
    """
    from torch.nn.functional import cross_entropy

    wanted = labels[:, 1:]
    rows, places = (wanted != IGNORED).nonzero(as_tuple=True)
    losses = cross_entropy(logits[rows, places].float(), wanted[rows, places], reduction="none")
    return losses, rows


def trained_tokens(labels: torch.Tensor) -> torch.Tensor:
    """How many tokens of each row are trained on."""
    return (labels[:, 1:] != IGNORED).sum(dim=1)


def counts(labels: torch.Tensor, cells: torch.Tensor, cell_count: int) -> torch.Tensor:
    """Two lines by cell: trained tokens, and rows. They add up over micro-batches and processes."""
    import torch

    found = torch.zeros(2, cell_count, dtype=torch.float64, device=labels.device)
    found[0].index_add_(0, cells, trained_tokens(labels).double())
    found[1].index_add_(0, cells, torch.ones_like(cells, dtype=torch.float64))
    return found


def row_coefficients(
    loss: Loss, whole: torch.Tensor, weights: torch.Tensor, cells: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """What the sum of a row's token losses is multiplied by, so that the sum over all rows is the loss.

    `whole` are the counts of the whole batch, `weights` the cells' weights; `cells` and `lengths` are the rows' own.
    """
    import torch

    tokens, rows = whole
    found: torch.Tensor
    match loss:
        case "token_mean":
            found = torch.full_like(cells, 1.0, dtype=torch.float64) / tokens.sum()
        case "sample_mean":
            found = 1.0 / (rows.sum() * lengths.double())
        case "task_mean":
            present = weights.double() * (rows > 0)
            found = (present / present.sum() / tokens.clamp(min=1))[cells]
    return found


def batch_loss(
    losses: torch.Tensor, rows: torch.Tensor, coefficients: torch.Tensor, token_weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The part of the loss that these rows make: the sum over their tokens. Zero, with a gradient, for no tokens at all."""
    weighted = losses if token_weights is None else losses * token_weights
    return (weighted * coefficients.to(losses.dtype)[rows]).sum()


def sums_by_cell(losses: torch.Tensor, rows: torch.Tensor, cells: torch.Tensor, cell_count: int) -> torch.Tensor:
    """Two lines by cell: the sum of the token losses, and the number of tokens. For curves; no gradient."""
    import torch

    found = torch.zeros(2, cell_count, dtype=torch.float64, device=losses.device)
    own = cells[rows]
    found[0].index_add_(0, own, losses.detach().double())
    found[1].index_add_(0, own, torch.ones_like(own, dtype=torch.float64))
    return found
