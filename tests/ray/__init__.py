"""What needs Ray: `make test-ray`."""
