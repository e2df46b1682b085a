"""``python -m ltsearch VERB …``: the command ``ltsearch`` of a checkout that is not installed."""

import sys

from ltsearch.cli import main

sys.exit(main())
