"""One program a contestant: does what standard input asks, and says how long it took."""
