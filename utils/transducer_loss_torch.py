"""The pruned RNN-T loss (arXiv 2206.13236) in plain PyTorch, with the interface of k2 and fast_rnnt.

Notation: B utterances, T frames, S symbols, V vocabulary.  The lattice has nodes (s, t); ``px[b, s, t]`` is the
log-probability of symbol s at node (s, t), ``py[b, s, t]`` that of blank.  With p[0, 0] = 0 ::

    p[s, t] = logaddexp(p[s-1, t] + px[s-1, t],  p[s, t-1] + py[s, t-1]) ,   loss = -(p[S, T-1] + py[S, T-1])

A row of constant s is a first-order recurrence in t, so with c[t] = sum_{i<t} py[s, i] it is one
``logcumsumexp``: p[s, t] = c[t] + logcumsumexp_t(e[t] - c[t]), e[t] = p[s-1, t] + px[s-1, t].  The loop is over
symbols, never over frames.
"""

import torch
from torch import Tensor

NEVER = -1e30  # log-probability of what can not happen; finite, so that no gradient becomes NaN


def lattice_score(px: Tensor, py: Tensor, boundary: Tensor) -> Tensor:
    """Log-probability of all paths: ``px`` (B, S, T), ``py`` (B, S+1, T), boundary (B, 4) -> (B,), in float64."""
    px, py = px.double(), py.double()
    batch, symbols, frames = px.shape
    row = torch.full((batch, frames), NEVER, dtype=torch.float64, device=px.device)
    row[:, 0] = 0.0
    rows = []
    for s in range(symbols + 1):
        entering = row if s == 0 else rows[-1] + px[:, s - 1]
        before = torch.nn.functional.pad(py[:, s].cumsum(1)[:, :-1], (1, 0))
        rows.append(before + torch.logcumsumexp(entering - before, dim=1))
    index = torch.arange(batch, device=px.device)
    last_symbol, last_frame = boundary[:, 2], boundary[:, 3] - 1
    return torch.stack(rows, dim=1)[index, last_symbol, last_frame] + py[index, last_symbol, last_frame]


def rnnt_loss_smoothed(lm: Tensor, am: Tensor, symbols: Tensor, termination_symbol: int, lm_only_scale: float,
                       am_only_scale: float, boundary: Tensor, reduction: str = "sum", return_grad: bool = False):
    """Loss of the trivial joiner ``log_softmax(am + lm)``, interpolated with its lm-only and am-only versions.

    Args:
      lm: (B, S+1, V). am: (B, T, V). symbols: (B, S). boundary: (B, 4), [0, 0, S_b, T_b].
      return_grad: also return the occupation of every arc, (B, S, T+1) and (B, S+1, T).
    """
    frames = am.shape[1]
    am_max, lm_max = am.amax(2, keepdim=True), lm.amax(2, keepdim=True)
    am_exp, lm_exp = (am - am_max).exp(), (lm - lm_max).exp()
    tiny = torch.finfo(am.dtype).tiny
    joint_norm = (lm_exp @ am_exp.transpose(1, 2) + tiny).log() + lm_max + am_max.transpose(1, 2)  # (B, S+1, T)
    lm_norm = lm.logsumexp(2, keepdim=True)  # (B, S+1, 1)
    unigram = lm.softmax(2).mean((0, 1)) + tiny  # (V,): an average language model for the am-only version
    am_norm = ((am_exp @ unigram).log() + am_max[..., 0])[:, None]  # (B, 1, T)
    targets = symbols[:, :, None]
    am_symbol = am.transpose(1, 2).gather(1, targets.expand(-1, -1, frames))  # (B, S, T)
    lm_symbol = lm[:, :-1].gather(2, targets)  # (B, S, 1)
    am_blank, lm_blank = am[:, None, :, termination_symbol], lm[:, :, termination_symbol, None]
    both = 1.0 - lm_only_scale - am_only_scale
    px = (both * (am_symbol + lm_symbol - joint_norm[:, :-1])
          + lm_only_scale * (lm_symbol - lm_norm[:, :-1])
          + am_only_scale * (am_symbol + unigram.log()[symbols][..., None] - am_norm))
    py = (both * (am_blank + lm_blank - joint_norm)
          + lm_only_scale * (lm_blank - lm_norm)
          + am_only_scale * (am_blank + unigram[termination_symbol].log() - am_norm))
    return _loss(px, py, boundary, reduction, return_grad)


def _loss(px: Tensor, py: Tensor, boundary: Tensor, reduction: str, return_grad: bool):
    loss = -lattice_score(px, py, boundary)
    if return_grad:
        occupation = torch.autograd.grad(-loss.sum(), (px, py), retain_graph=True) if px.requires_grad else _occupation(px, py, boundary)
        px_grad = torch.nn.functional.pad(occupation[0], (0, 1))
    loss = _reduce(loss.to(px.dtype), reduction)
    return (loss, (px_grad, occupation[1])) if return_grad else loss


def _occupation(px: Tensor, py: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        px, py = px.detach().requires_grad_(), py.detach().requires_grad_()
        return torch.autograd.grad(lattice_score(px, py, boundary).sum(), (px, py))


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    return {"none": lambda x: x, "sum": torch.sum, "mean": torch.mean}[reduction](loss)


def get_rnnt_prune_ranges(px_grad: Tensor, py_grad: Tensor, boundary: Tensor, s_range: int) -> Tensor:
    """The window of ``s_range`` symbols with the largest occupation at every frame, made feasible (section 3.2).

    Args:
      px_grad: (B, S, T+1). py_grad: (B, S+1, T).
    Returns:
      (B, T, min(s_range, S+1)) symbol indices; lower bounds start at 0, never fall, rise by less than s_range a
      frame, and reach S_b - s_range + 1 at the last frame.
    """
    symbols, frames = px_grad.shape[1], py_grad.shape[2]
    s_range = min(s_range, symbols + 1)
    # Node occupation below s, and what enters node s by a symbol, which must not be counted as the window's own.
    cumulative = torch.nn.functional.pad(py_grad.cumsum(1), (0, 0, 1, 0))
    window = cumulative[:, s_range:] - cumulative[:, :-s_range]  # (B, S + 2 - s_range, T)
    entering = torch.nn.functional.pad(px_grad, (0, 0, 1, 0))[:, : symbols + 2 - s_range, :frames]
    low = (window - entering).argmax(1)  # (B, T)
    frame = torch.arange(frames, device=low.device)
    at_end = (boundary[:, 2:3] - s_range + 1).clamp(min=0)
    low = torch.where(frame < boundary[:, 3:4] - 1, low, at_end)
    low = _from_right(low)
    steepest = (s_range - 1) * frame
    low = steepest - _from_right(steepest - low).clamp(min=0)
    return low[..., None] + torch.arange(s_range, device=low.device)


def _from_right(x: Tensor) -> Tensor:
    """Running minimum from the last frame back: the largest non-decreasing sequence below x."""
    return x.flip(1).cummin(1).values.flip(1)


def do_rnnt_pruning(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Joiner inputs on the kept nodes: am (B, T, J), lm (B, S+1, J), ranges (B, T, R) -> two of (B, T, R, J)."""
    batch = torch.arange(len(lm), device=lm.device)[:, None, None]
    return am[:, :, None].expand(-1, -1, ranges.shape[2], -1), lm[batch, ranges]


def rnnt_loss_pruned(logits: Tensor, symbols: Tensor, ranges: Tensor, termination_symbol: int, boundary: Tensor,
                     reduction: str = "sum") -> Tensor:
    """Loss over the kept nodes: logits (B, T, R, V), symbols (B, S), ranges (B, T, R)."""
    batch, frames, _, _ = logits.shape
    count = symbols.shape[1]
    log_probs = logits.log_softmax(-1)
    targets = torch.nn.functional.pad(symbols, (0, 1))[torch.arange(batch, device=logits.device)[:, None, None], ranges]
    px_kept = log_probs.gather(-1, targets[..., None])[..., 0]  # (B, T, R)
    # Outside the window no symbol can be read, nor can one lead out of its top; then no path is ever outside, and what
    # blank costs there does not matter.
    px_kept = torch.cat([px_kept[..., :-1], torch.full_like(px_kept[..., -1:], NEVER)], dim=-1)
    px = logits.new_full((batch, frames, count + 1), NEVER).scatter(2, ranges, px_kept)[..., :count]
    py = logits.new_zeros(batch, frames, count + 1).scatter(2, ranges, log_probs[..., termination_symbol])
    return _reduce(-lattice_score(px.transpose(1, 2), py.transpose(1, 2), boundary).to(logits.dtype), reduction)
