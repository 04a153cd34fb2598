"""`python -m fastdqn` is `fastdqn`."""

import sys

from fastdqn.cli import main

sys.exit(main())
