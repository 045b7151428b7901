"""The table that `Telemetry` writes and `tfdist plot` reads; without TensorFlow."""
