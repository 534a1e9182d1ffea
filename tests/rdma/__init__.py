"""RDMA over a real verbs device: `make test-rdma` brings one up in a guest."""
