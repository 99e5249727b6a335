"""Keys of a recipe with a meaning of their own: those that change no number of a run, and those that had other names."""

# Runs that differ in nothing else are one run: it may be resumed with other values, and a report takes them for one group.
CHANGE_NO_NUMBER = frozenset(
    {
        "data.root",
        "data.download",
        "data.workers",
        "data.val_batch_size",
        "training.checkpoint_every",
        "training.log_every",
        "training.observations",
        "training.tensorboard",
    }
)
# Read before the first step alone, so that a resumed run does without.
READ_AT_START = frozenset({"model.weights", "start"})
# What the recipes and checkpoints of the first edition call a key, by section.
RENAMED = {"quantization": {"band": "ste_range"}}
