"""`make bench`: every table that this machine can fill, then the README's figures from them."""

import sys

from bench import engine, gateway, kernels, report, startup

for table in (engine, startup, gateway, kernels):
    sys.argv = [table.__name__]
    table.main()
sys.exit(report.main())
