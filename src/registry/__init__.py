"""A container registry on R2. Start reading at `registry.router`; `registry.keys` shows what lies in the bucket."""
