"""The contracts: messages, services, error kinds. Imports nothing of ours."""
