"""The connectors in the engines' own packages, outside the default run: `make test-engines`."""
