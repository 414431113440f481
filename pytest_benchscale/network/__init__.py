"""What backends share of networks: the kernel's links, addresses and routes."""
