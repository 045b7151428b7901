"""One strategy and one trained model for all tests of a rank."""

import pytest
import training


@pytest.fixture(scope="session")
def model():
    """What every rank holds after training."""
    return training.fit()
