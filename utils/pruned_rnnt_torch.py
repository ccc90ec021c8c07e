"""The pruned RNN-T loss (arXiv 2206.13236) in plain PyTorch, with the interface of k2 and
fast_rnnt.

Notation: B utterances, T frames, S symbols, V vocabulary.  The lattice has nodes (s, t);
``px[b, s, t]`` is the log-probability of symbol s at node (s, t), ``py[b, s, t]`` that of blank.
With p[0, 0] = 0 ::

    p[s, t] = logaddexp(p[s-1, t-a] + px[s-1, t-a],  p[s, t-1] + py[s, t-1]) ,   loss = -p[S, T]

``rnnt_type`` says what a symbol does.  ``regular`` (a = 0): it stays in its frame, which may emit
any number.  ``modified`` (a = 1): it ends its frame, as blank does, so a frame emits one at most.
``constrained`` (a = 1): the same, but the blank that ends the frame is paid for: px[s, t] has
py[s+1, t] in it.  A delay penalty d above 0 adds d ((T_b - 1) / 2 - t) to every symbol of frame t,
so that early ones are worth more.

A row of constant s is a first-order recurrence in t, so with c[t] = sum_{i<t} py[s, i] it is one
``logcumsumexp``: p[s, t] = c[t] + logcumsumexp_t(e[t] - c[t]), e[t] = p[s-1, t-a] + px[s-1, t-a].
The loop is over symbols, never over frames.
"""

import torch
from torch import Tensor

NEVER = -1e30  # log-probability of what can not happen; finite, so that no gradient becomes NaN


def lattice_score(px: Tensor, py: Tensor, boundary: Tensor, rnnt_type: str = "regular") -> Tensor:
    """The log-probability of all paths, in float64: ``px`` (B, S, T), ``py`` (B, S+1, T), boundary
    (B, 4) -> (B,)."""
    px, py = px.double(), py.double()
    batch, symbols, frames = px.shape
    last = boundary[:, 3]
    if rnnt_type == "regular":  # nothing is emitted when the last frame has ended
        px = px.masked_fill(torch.arange(frames, device=px.device) >= last[:, None, None], NEVER)
    # where the row of T nodes stands among T + 1
    ends_frame = (0, 1) if rnnt_type == "regular" else (1, 0)
    row = torch.full((batch, frames + 1), NEVER, dtype=torch.float64, device=px.device)
    row[:, 0] = 0.0
    rows: list[Tensor] = []
    for s in range(symbols + 1):
        entering = (
            row
            if s == 0
            else torch.nn.functional.pad(rows[-1][:, :-1] + px[:, s - 1], ends_frame, value=NEVER)
        )
        before = torch.nn.functional.pad(py[:, s].cumsum(1), (1, 0))
        rows.append(before + torch.logcumsumexp(entering - before, dim=1))
    return torch.stack(rows, dim=1)[torch.arange(batch, device=px.device), boundary[:, 2], last]


def rnnt_loss_smoothed(
    lm: Tensor,
    am: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    lm_only_scale: float,
    am_only_scale: float,
    boundary: Tensor,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "sum",
    return_grad: bool = False,
):
    """The loss of the trivial joiner ``log_softmax(am + lm)``, interpolated with its lm-only and
    am-only versions.

    Args:
      lm: (B, S+1, V). am: (B, T, V). symbols: (B, S). boundary: (B, 4), [0, 0, S_b, T_b].
      return_grad: also return the occupation of every arc, (B, S, T+1) and (B, S+1, T); where a
        symbol ends its frame (B, S, T), as in the other backends: :func:`get_rnnt_prune_ranges`
        tells the lattices apart by it.
    """
    frames = am.shape[1]
    am_max, lm_max = am.amax(2, keepdim=True), lm.amax(2, keepdim=True)
    am_exp, lm_exp = (am - am_max).exp(), (lm - lm_max).exp()
    tiny = torch.finfo(am.dtype).tiny
    # (B, S+1, T)
    joint_norm = (lm_exp @ am_exp.transpose(1, 2) + tiny).log() + lm_max + am_max.transpose(1, 2)
    lm_norm = lm.logsumexp(2, keepdim=True)  # (B, S+1, 1)
    # (V,): an average language model for the am-only version
    unigram = lm.softmax(2).mean((0, 1)) + tiny
    am_norm = ((am_exp @ unigram).log() + am_max[..., 0])[:, None]  # (B, 1, T)
    targets = symbols[:, :, None]
    am_symbol = am.transpose(1, 2).gather(1, targets.expand(-1, -1, frames))  # (B, S, T)
    lm_symbol = lm[:, :-1].gather(2, targets)  # (B, S, 1)
    am_blank, lm_blank = am[:, None, :, termination_symbol], lm[:, :, termination_symbol, None]
    both = 1.0 - lm_only_scale - am_only_scale
    px = (
        both * (am_symbol + lm_symbol - joint_norm[:, :-1])
        + lm_only_scale * (lm_symbol - lm_norm[:, :-1])
        + am_only_scale * (am_symbol + unigram.log()[symbols][..., None] - am_norm)
    )
    py = (
        both * (am_blank + lm_blank - joint_norm)
        + lm_only_scale * (lm_blank - lm_norm)
        + am_only_scale * (am_blank + unigram[termination_symbol].log() - am_norm)
    )
    if rnnt_type == "constrained":
        px = px + py[:, 1:]
    px = px + _early(frames, boundary, delay_penalty)[:, None]
    # the arcs as such: that px may hold a blank of py is no matter of occupation
    px, py = px.view_as(px), py.view_as(py)
    score = lattice_score(px, py, boundary, rnnt_type)
    loss = _reduce(-score.to(px.dtype), reduction)
    if not return_grad:
        return loss
    if px.requires_grad:
        px_grad, py_grad = torch.autograd.grad(score.sum(), (px, py), retain_graph=True)
    else:
        px_grad, py_grad = _occupation(px, py, boundary, rnnt_type)
    return loss, (
        torch.nn.functional.pad(px_grad, (0, 1)) if rnnt_type == "regular" else px_grad,
        py_grad,
    )


def _early(frames: int, boundary: Tensor, delay_penalty: float) -> Tensor:
    """The gain of a symbol that comes early, (B, T): its mean over the utterance's own frames is
    0."""
    return delay_penalty * (
        (boundary[:, 3:4] - 1) / 2 - torch.arange(frames, device=boundary.device)
    )


def _occupation(px: Tensor, py: Tensor, boundary: Tensor, rnnt_type: str) -> tuple[Tensor, Tensor]:
    """The occupation of every arc, the gradient of the score, where nothing else needs one."""
    with torch.enable_grad():
        px, py = px.detach().requires_grad_(), py.detach().requires_grad_()
        score = lattice_score(px, py, boundary, rnnt_type)
        px_grad, py_grad = torch.autograd.grad(score.sum(), (px, py))
        return px_grad, py_grad


def _reduce(loss: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.mean()


def get_rnnt_prune_ranges(
    px_grad: Tensor, py_grad: Tensor, boundary: Tensor, s_range: int
) -> Tensor:
    """The window of ``s_range`` symbols with the largest occupation at every frame, made feasible
    (section 3.2).

    Args:
      px_grad: (B, S, T+1), or (B, S, T) where a symbol ends its frame. py_grad: (B, S+1, T).
    Returns:
      (B, T, min(s_range, S+1)) symbol indices; lower bounds start at 0, never fall, rise by less
      than s_range a frame (by at most 1 where a symbol ends its frame), and reach S_b - s_range + 1
      at the last frame.
    """
    symbols, frames = px_grad.shape[1], py_grad.shape[2]
    s_range = min(s_range, symbols + 1)
    # Occupation of every window, and what enters its lowest node by a symbol, which must not be
    # counted as its own.
    window = py_grad.unfold(1, s_range, 1).transpose(2, 3).sum(2)  # (B, S + 2 - s_range, T)
    entering = torch.nn.functional.pad(px_grad, (0, 0, 1, 0))[:, : symbols + 2 - s_range, :frames]
    low = (window - entering).argmax(1)  # (B, T)
    frame = torch.arange(frames, device=low.device)
    at_end = (boundary[:, 2:3] - s_range + 1).clamp(min=0)
    low = torch.where(frame < boundary[:, 3:4] - 1, low, at_end)
    low = _from_right(low)
    most = s_range - 1 if px_grad.shape[2] > frames else 1
    steepest = most * frame
    low = steepest - _from_right(steepest - low).clamp(min=0)
    return low[..., None] + torch.arange(s_range, device=low.device)


def _from_right(x: Tensor) -> Tensor:
    """Running minimum from the last frame back: the largest non-decreasing sequence below x."""
    return x.flip(1).cummin(1).values.flip(1)


def do_rnnt_pruning(am: Tensor, lm: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """The joiner's inputs on the kept nodes: am (B, T, J), lm (B, S+1, J), ranges (B, T, R) -> two
    of (B, T, R, J)."""
    batch = torch.arange(len(lm), device=lm.device)[:, None, None]
    return am[:, :, None].expand(-1, -1, ranges.shape[2], -1), lm[batch, ranges]


def rnnt_loss_pruned(
    logits: Tensor,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "sum",
) -> Tensor:
    """The loss over the kept nodes: logits (B, T, R, V), symbols (B, S), ranges (B, T, R)."""
    batch, frames, _, _ = logits.shape
    count = symbols.shape[1]
    log_probs = logits.log_softmax(-1)
    targets = torch.nn.functional.pad(symbols, (0, 1))[
        torch.arange(batch, device=logits.device)[:, None, None], ranges
    ]
    px_kept = log_probs.gather(-1, targets[..., None])[..., 0]  # (B, T, R)
    py_kept = log_probs[..., termination_symbol]
    if rnnt_type == "constrained":
        px_kept = px_kept + torch.nn.functional.pad(py_kept[..., 1:], (0, 1))
    px_kept = px_kept + _early(frames, boundary, delay_penalty)[..., None]
    # Outside the window no symbol can be read, nor can one lead out of its top; then no path is
    # ever above it, what has fallen below it never reaches the end, and what blank costs there does
    # not matter.
    px_kept = torch.cat(
        [px_kept[..., :-1], px_kept[..., -1:].masked_fill(~_leads_on(ranges, rnnt_type), NEVER)],
        dim=-1,
    )
    px = logits.new_full((batch, frames, count + 1), NEVER).scatter(2, ranges, px_kept)[..., :count]
    py = logits.new_zeros(batch, frames, count + 1).scatter(2, ranges, py_kept)
    score = lattice_score(px.transpose(1, 2), py.transpose(1, 2), boundary, rnnt_type)
    return _reduce(-score.to(logits.dtype), reduction)


def _leads_on(ranges: Tensor, rnnt_type: str) -> Tensor:
    """Tells whether a symbol of the window's top node leads to a kept node, (B, T, 1): to one of
    the next frame, if that window is higher."""
    rises = torch.nn.functional.pad(ranges[:, :, :1].diff(dim=1) > 0, (0, 0, 0, 1))
    return rises if rnnt_type == "modified" else torch.zeros_like(rises)
