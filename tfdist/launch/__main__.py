"""Makes `python -m tfdist.launch` the same as the command `tfdist`."""

from tfdist.launch.main import main

raise SystemExit(main())
