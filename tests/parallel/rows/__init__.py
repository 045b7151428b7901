"""One file of rows for each group of the table."""

ORDER = (
    "fitting",
    "data",
    "position",
    "models",
    "losses",
    "partial_batches",
    "optimizers",
    "gradients",
    "precision",
    "averaging",
    "execution",
    "layers",
    "learning_rates",
    "callbacks",
    "files",
    "custom_loops",
    "compression",
    "recovery",
    "recovery_states",
)
