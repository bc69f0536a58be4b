"""Which version changed an engine: its releases, an environment for each, the races between them."""
