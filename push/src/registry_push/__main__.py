"""Lets `python -m registry_push` run the command `registry-push`."""

import sys

from registry_push.command import main

sys.exit(main())
