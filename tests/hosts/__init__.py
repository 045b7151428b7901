"""Several hosts on one machine, and what launchers do on them."""
