"""Numbers about clips: distances between sets, motion statistics, guards."""
