"""Analysis of networks: cost, calibration, compression, sensitivity, diagnosis, timing, figures."""
