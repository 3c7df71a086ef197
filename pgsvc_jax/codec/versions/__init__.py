"""What only old versions of the bitstream need: read, never written."""
