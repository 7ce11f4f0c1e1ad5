"""Reports: one self-contained HTML page of a run, or of two side by side, and the parts that a study's report is made of."""
