"""What turns splats into bytes and back: symbols, contexts, layers, files."""
