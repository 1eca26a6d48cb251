"""`python -m t2local`: the commands of `t2local.cli`."""

import sys

from t2local.cli.main import main

sys.exit(main())
