"""The network: a space-time U-Net with temporal attention, and its averages."""
