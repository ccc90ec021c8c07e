"""Eden, the learning rate schedule of icefall's zipformer recipe."""


def eden(update: float, epoch: float, lr_batches: float, lr_epochs: float, warmup: float) -> float:
    """Eden's factor on the base learning rate.

    ``(1 + (b/B)^2)^-1/4 (1 + (e/E)^2)^-1/4 warm(b)``, warm from 0.1 to 1 over ``warmup`` updates.
    """
    warm = 1.0 if update >= warmup else 0.1 + 0.9 * update / warmup
    return (
        (1 + (update / lr_batches) ** 2) ** -0.25 * (1 + (epoch / lr_epochs) ** 2) ** -0.25 * warm
    )
