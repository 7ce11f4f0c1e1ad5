"""Analysis of networks: cost, calibration, compression, sensitivity, timing, figures."""
