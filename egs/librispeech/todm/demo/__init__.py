"""A local page to try a supernet on: demo.sh."""
