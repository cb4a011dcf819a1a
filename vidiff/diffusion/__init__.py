"""The process: noise levels, preconditioning, samplers, guidance, calibration."""
