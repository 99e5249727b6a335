"""What a record does not tell, and why: a section of the page that stays empty says so."""

from stillbit.report.history import RunHistory

_LAYERS = "The record has no figures by layer. Records of versions before reports lack them; train again to get them."
_FLOAT = "The weights are floats: there is no grid for them to oscillate on."


def missing(history: RunHistory) -> dict[str, str]:
    """Return what cannot be drawn of a run."""
    found = {"training": _training(history), "oscillation": _oscillation(history), "weights": _weights(history)}
    found |= {"scales": _scales(history), "batchnorm": _batchnorm(history), "size": _size(history)}
    return {section: text for section, text in found.items() if text}


def is_float(history: RunHistory) -> bool:
    """Return whether a run trains in full precision."""
    return not history.layers and not history.recipe.get("quantization")


def _training(history: RunHistory) -> str:
    return (
        "" if history.steps or history.epochs else "The record holds no step and no epoch: the run ended before the first one was written."
    )


def _oscillation(history: RunHistory) -> str:
    if is_float(history):
        return _FLOAT
    if any(layer.oscillating.steps for layer in history.layers):
        return ""
    whole = "oscillating" in history.steps or "oscillating" in history.epochs
    return _LAYERS if whole else "The record has no oscillation: no method of the run watched its weights."


def _weights(history: RunHistory) -> str:
    if is_float(history):
        return _FLOAT
    if any(layer.histograms or layer.trajectories for layer in history.layers):
        return ""
    return "The record has no histograms and no trajectories of weights." if history.layers else _LAYERS


def _scales(history: RunHistory) -> str:
    if is_float(history):
        return "The weights are floats: there are no scales."
    known = any(layer.scale.steps for layer in history.layers) or any(activation.scale.steps for activation in history.activations)
    return "" if known else "The record has no scales."


def _batchnorm(history: RunHistory) -> str:
    if history.batchnorms:
        return ""
    return "The record has no check of batch norms: the network has none, the run did not re-estimate them, or it has not ended."


def _size(history: RunHistory) -> str:
    return "" if history.float_bytes else "The record has no sizes."
