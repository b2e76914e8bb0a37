"""Real clients against the registry: `make clients`. install.sh installs them."""
