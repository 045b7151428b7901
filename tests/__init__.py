"""tfdist's tests: unit (one process), parallel (every strategy), integration."""

import sys

# Where scikit-learn is installed, Keras 3 imports it and scipy.stats for its wrappers:
# half of the time that a process needs to start, and the tests start hundreds. Their
# programs do without, those of tests.convergence excepted.
if "pytest" not in sys.modules:
    sys.modules["sklearn"] = None  # type: ignore[assignment]


def allow_scikit_learn() -> None:
    """Let this process import it all the same."""
    if sys.modules.get("sklearn", sys) is None:
        del sys.modules["sklearn"]
