"""`python -m t2local`: the commands of `t2local.cli`."""

import sys

try:
    from t2local.cli.main import main
except KeyboardInterrupt:
    sys.exit(130)

if __name__ == "__main__":
    sys.exit(main())
