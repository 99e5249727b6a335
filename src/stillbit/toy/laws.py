"""What the one-weight regression does according to a short calculation, for the pictures and the tests to compare with.

The grid's step is 1 and the optimum lies `distance` above the nearest grid point, at most 1/2. While the weight rounds down, each step
moves the latent up by `learning_rate * distance`; while it rounds up, down by `learning_rate * (1 - distance)`. In the long run the two
cancel: the share of steps spent above the boundary is `distance`, so the mean of `q(w)` is the optimum itself. The way down is the longer
one, so each stay above lasts a single step, and there is one cycle in `1 / distance` steps, of two switches. The learning rate is in both
moves alike and cancels; it is the height of the saw-tooth.

Dampening by `weight * (q(w) - w)^2` adds its pull at the boundary, `weight` towards the code's value on either side: the moves become
`distance - weight` and `1 - distance - weight`, and from `weight >= distance` on the latent rests below the boundary. An estimator that
multiplies the gradient does so on both sides of the boundary alike, and changes nothing but the height.
"""


def oscillation_frequency(distance: float, dampening: float = 0.0) -> float:
    """Return oscillations a step as `Tracking` counts them, `2 (d - weight) / (1 - 2 weight)`.

    Args:
        distance: From the optimum to the nearest grid point, in grid steps, 0 to 0.5.
        dampening: Weight of the dampening term.

    >>> oscillation_frequency(0.25)
    0.5
    >>> oscillation_frequency(0.25, dampening=0.25)
    0.0
    """
    return 0.0 if dampening >= distance else 2.0 * (distance - dampening) / (1.0 - 2.0 * dampening)


def amplitude(learning_rate: float, factor: float = 1.0) -> float:
    """Return the latent's greatest range, in grid steps.

    Args:
        learning_rate: Of plain SGD.
        factor: What the rounding estimator multiplies a gradient by at the boundary.

    >>> amplitude(0.1)
    0.1
    """
    return learning_rate * factor
