"""`python -m registry_push` is `registry-push`."""

import sys

from registry_push.command import main

sys.exit(main())
